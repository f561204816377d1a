package sim

// answeredCall is told of each call that a node gets the answer to.
func (c *checker) answeredCall(cl *call) {
	if cl.err != nil {
		return
	}
	cl.from.meets(cl)
	c.wokenBy(cl)
	c.bringsLeases(cl)
	for _, key := range cl.held {
		c.lives[cl.from].held[key] = c.w.now()
	}
	for _, r := range cl.appended {
		r.heard = c.w.step
	}
}

// endOfMoment judges what can be said once everything is at rest, and before
// time passes.
func (c *checker) endOfMoment() {
	c.waits()
	c.untakenLeases()
	c.leftBehind()
	for _, a := range c.w.apps {
		c.calls(a)
	}
	c.moment = c.w.now()
}
