package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// handler returns the application over HTTP.
func (a *catalog) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{id}", a.endpoint(a.getProduct))
	mux.HandleFunc("PUT /products/{id}", a.endpoint(a.putProduct))
	mux.HandleFunc("GET /featured", a.endpoint(a.getFeatured))
	mux.HandleFunc("GET /search", a.endpoint(a.getSearch))
	mux.HandleFunc("GET /debug/loads", a.getLoads)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	return mux
}

func (a *catalog) getProduct(r *http.Request, _ http.Header) (any, error) {
	id, err := pathID(r)
	if err != nil {
		return nil, err
	}
	return a.Product(r.Context(), id)
}

func (a *catalog) getFeatured(r *http.Request, _ http.Header) (any, error) {
	tag := r.FormValue("tag")
	if tag == "" {
		tag = "gift"
	}
	if !validWord(tag) {
		return nil, fmt.Errorf("%w: tag must have at most 64 bytes", errInput)
	}
	return a.Featured(r.Context(), tag)
}

func (a *catalog) getSearch(r *http.Request, _ http.Header) (any, error) {
	category := r.FormValue("category")
	if !validWord(category) {
		return nil, fmt.Errorf("%w: category must have 1 to 64 bytes", errInput)
	}
	maxPrice, err := strconv.ParseFloat(r.FormValue("max_price"), 64)
	if err != nil || !(maxPrice >= 0 && maxPrice <= 1e9) {
		return nil, fmt.Errorf("%w: max_price must be a number such as 19.99", errInput)
	}
	return a.Search(r.Context(), category, int64(math.Round(maxPrice*100)))
}

// putProduct replaces a product. Its answer says whether the cache has been
// told: X-Cache-Invalidation is done, or owed while the cache is down.
func (a *catalog) putProduct(r *http.Request, h http.Header) (any, error) {
	id, err := pathID(r)
	if err != nil {
		return nil, err
	}
	var c Change
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		return nil, fmt.Errorf("%w: %w", errInput, err)
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	p, told, err := a.Update(r.Context(), id, c)
	if err != nil {
		return nil, err
	}
	h.Set("X-Cache-Invalidation", map[bool]string{true: "done", false: "owed"}[told])
	return p, nil
}

func pathID(r *http.Request) (int64, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		return 0, fmt.Errorf("%w: a product's id is a positive number", errInput)
	}
	return id, nil
}

// getLoads tells how often the database was asked, and what the cache did.
func (a *catalog) getLoads(w http.ResponseWriter, _ *http.Request) {
	c := &a.counts
	reply(w, http.StatusOK, map[string]any{
		"loads": map[string]int64{"product": c.product.Load(), "featured": c.featured.Load(), "search": c.search.Load()},
		"cache": map[string]int64{
			"hits_near": c.hitsNear.Load(), "hits_l1": c.hitsL1.Load(), "hits_l2": c.hitsL2.Load(), "misses": c.misses.Load(),
			"superseded": c.superseded.Load(), "fail_open": c.failOpen.Load(),
		},
		"owed": a.debts.owed(),
	})
}

// spent is what one request cost.
type spent struct {
	loads atomic.Int64 // SQL statements
	sql   atomic.Int64 // time in them, in nanoseconds
}

type spentKey struct{}

// timed runs one SQL load on the account of the request that caused it. Others
// that share the load are not charged: a loader runs with the context values of
// its first caller.
func timed[T any](ctx context.Context, load func() (T, error)) (T, error) {
	if s, ok := ctx.Value(spentKey{}).(*spent); ok {
		s.loads.Add(1)
		defer func(begun time.Time) { s.sql.Add(int64(time.Since(begun))) }(time.Now())
	}
	return load()
}

// endpoint answers with what do returns, and shows what it took: X-Cache-Loads
// is how many SQL statements the request caused, and Server-Timing the time.
func (a *catalog) endpoint(do func(*http.Request, http.Header) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		s := &spent{}
		ctx, cancel := context.WithTimeout(context.WithValue(r.Context(), spentKey{}, s), a.most.request)
		defer cancel()
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		answer, err := do(r, w.Header())
		w.Header().Set("X-Cache-Loads", strconv.FormatInt(s.loads.Load(), 10))
		w.Header().Set("Server-Timing", fmt.Sprintf("total;dur=%.2f, sql;dur=%.2f",
			milliseconds(int64(time.Since(begun))), milliseconds(s.sql.Load())))
		if err != nil {
			fail(w, r, err)
			return
		}
		reply(w, http.StatusOK, answer)
	}
}

func milliseconds(nanoseconds int64) float64 { return float64(nanoseconds) / 1e6 }

// fail answers an error. What is our own fault is for the log.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusInternalServerError, "internal error"
	switch {
	case errors.Is(err, errNotFound):
		status, text = http.StatusNotFound, err.Error()
	case errors.Is(err, errInput):
		status, text = http.StatusBadRequest, err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		status, text = http.StatusGatewayTimeout, "no answer in time"
	}
	if status >= http.StatusInternalServerError {
		slog.Error("request failed", "path", r.URL.Path, "error", err)
	}
	reply(w, status, map[string]string{"error": text})
}

func reply(w http.ResponseWriter, status int, answer any) {
	body, err := json.Marshal(answer)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // who asked may be gone
}
