package server

import (
	"net/http"
	"sync/atomic"
	"time"
)

// scrapes are the answers with metrics that are under way. Each is made in memory
// that is in no budget, and anybody may ask for it, so that there are few at once.
type scrapes struct {
	places  chan struct{}
	refused atomic.Uint64
}

const (
	mostScrapes = 4
	// scrapeTime is how long one may take. Whoever reads more slowly is cut off.
	scrapeTime = 5 * time.Second
)

// serve answers with the metrics, or that others are being answered.
func (all *scrapes) serve(w http.ResponseWriter, r *http.Request, metrics http.Handler) {
	select {
	case all.places <- struct{}{}:
		defer func() { <-all.places }()
	default:
		all.refused.Add(1)
		w.Header().Set("Retry-After", retryAfter)
		http.Error(w, "others are reading the metrics", http.StatusServiceUnavailable)
		return
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(scrapeTime))
	metrics.ServeHTTP(w, r)
}
