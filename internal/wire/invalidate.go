package wire

import (
	"github.com/soracache/soracache"
	cachev1 "github.com/soracache/soracache/proto/soracache/v1"
)

// InvalidateRequest puts an invalidation on the wire.
func InvalidateRequest(req soracache.InvalidateRequest) *cachev1.InvalidateRequest {
	message := &cachev1.InvalidateRequest{Namespace: req.Namespace, Acknowledge: req.Acknowledge, Settle: Duration(req.Settle)}
	for _, t := range req.Targets {
		switch t.Kind {
		case soracache.TargetKey:
			message.Keys = append(message.Keys, t.Name)
		case soracache.TargetTag:
			message.Tags = append(message.Tags, t.Name)
		case soracache.TargetAll:
			message.All = true
		}
	}
	return message
}

// InvalidatedBy reads what an invalidation names.
func InvalidatedBy(r *cachev1.InvalidateRequest) []soracache.Target {
	targets := make([]soracache.Target, 0, len(r.GetKeys())+len(r.GetTags())+1)
	for _, key := range r.GetKeys() {
		targets = append(targets, soracache.Key(key))
	}
	for _, tag := range r.GetTags() {
		targets = append(targets, soracache.Tag(tag))
	}
	if r.GetAll() {
		targets = append(targets, soracache.Everything())
	}
	return targets
}

// InvalidateResult reads the answer to an invalidation.
func InvalidateResult(answer *cachev1.InvalidateResponse, err error) (soracache.InvalidateResult, error) {
	if err != nil {
		return soracache.InvalidateResult{}, invalidateError(err)
	}
	stamp, err := stampsOf(answer.GetStamp())
	return soracache.InvalidateResult{Stamp: stamp, Stragglers: answer.GetStragglers()}, err
}

// HeadResult reads the answer to the question how far a node has followed a namespace.
func HeadResult(answer *cachev1.HeadResponse, err error) (soracache.HeadResult, error) {
	if err != nil {
		return soracache.HeadResult{}, Error(err)
	}
	stamp, err := stampsOf(answer.GetStamp())
	return soracache.HeadResult{Stamp: stamp, Age: ageOf(answer.GetAge())}, err
}
