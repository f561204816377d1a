package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// retryDead is how many members that are held to be dead are tried again in
// one round, besides those that were to be joined.
const retryDead = 3

// keepJoined joins, and joins again whoever is not there, until the member is
// closed. memberlist does not: two sides of a partition that have called each
// other dead would stay apart for ever.
func (g *Gossip) keepJoined(ctx context.Context) {
	// Members of a new cluster often start at once, and find nobody yet.
	pause := min(time.Second, g.config.RejoinEvery)
	for {
		if err := g.rejoin(ctx); err != nil && ctx.Err() == nil {
			g.config.Logger.Warn("gossip: could not join", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, g.config.RejoinEvery)
	}
}

// rejoin tries everybody who should be there and is not. It fails if that was
// somebody, and nobody could be joined.
func (g *Gossip) rejoin(ctx context.Context) error {
	wanted, err := g.resolve(ctx)
	wanted = g.absent(append(wanted, g.lost()...))
	joined := 0
	for _, address := range wanted {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// Whoever was joined knows the others.
		if len(g.absent([]netip.AddrPort{address})) == 0 {
			continue
		}
		if joinErr := g.join(address); joinErr != nil {
			err = errors.Join(err, joinErr)
			continue
		}
		joined++
	}
	if joined > 0 || len(g.table.peers().names) > 0 {
		return nil
	}
	return err
}

// join exchanges what is known with the member at an address. If each holds the
// other to be dead, the first exchange makes each of them object, and only the
// second one brings the objections.
func (g *Gossip) join(address netip.AddrPort) error {
	for range 2 {
		if _, err := g.list.Join([]string{address.String()}); err != nil {
			return err
		}
		if len(g.absent([]netip.AddrPort{address})) == 0 {
			return nil
		}
	}
	return nil
}

// resolve finds the addresses of all that were to be joined. It returns those
// that it found even if it fails.
func (g *Gossip) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	var found []netip.AddrPort
	var errs error
	for _, address := range g.config.Join {
		host, port, err := splitHostPort(address, g.port)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		addrs, err := g.lookup(ctx, host)
		if err != nil {
			errs = errors.Join(errs, err)
		}
		for _, addr := range addrs {
			if !g.reachableFrom(addr.Unmap()) {
				errs = errors.Join(errs, fmt.Errorf("gossip: %s is another machine, from which this member cannot be reached on %s: "+
					"it must listen on another address, or advertise one", addr, g.config.Bind))
				continue
			}
			found = append(found, netip.AddrPortFrom(addr.Unmap(), port))
		}
	}
	return found, errs
}

// reachableFrom says whether whoever is at an address could reach this member.
// One that listens on loopback is reached from its own machine only; joined from
// there, others would take theirs for it.
func (g *Gossip) reachableFrom(addr netip.Addr) bool {
	bind, err := bindAddress(g.config.Bind)
	if err != nil || !bind.Addr().IsLoopback() || g.config.Advertise != "" || addr.IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	return err != nil || slices.ContainsFunc(own, func(a net.Addr) bool {
		prefix, err := netip.ParsePrefix(a.String())
		return err == nil && prefix.Addr().Unmap() == addr
	})
}

func (g *Gossip) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.config.Timing.Stream)
	defer cancel()
	addrs, err := g.config.Resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	return addrs, nil
}

// lost are some of those that are held to be dead: they may be on the other
// side of a partition that has healed, and not among those that were to be
// joined.
func (g *Gossip) lost() []netip.AddrPort {
	var dead []netip.AddrPort
	for _, m := range g.Members() {
		if addr, err := netip.ParseAddrPort(m.Address); m.State == StateDead && err == nil {
			dead = append(dead, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()))
		}
	}
	newRandom().Shuffle(len(dead), func(i, j int) { dead[i], dead[j] = dead[j], dead[i] })
	return dead[:min(len(dead), retryDead)]
}

// absent are those addresses at which nobody is, each once.
func (g *Gossip) absent(addresses []netip.AddrPort) []netip.AddrPort {
	present := make(map[netip.AddrPort]bool)
	for _, m := range g.Members() {
		if addr, err := netip.ParseAddrPort(m.Address); err == nil && !m.State.Gone() {
			present[netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())] = true
		}
	}
	var absent []netip.AddrPort
	for _, address := range addresses {
		if !present[address] && !slices.Contains(absent, address) {
			absent = append(absent, address)
		}
	}
	return absent
}
