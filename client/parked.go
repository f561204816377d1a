package client

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// What a client keeps of parked values, unless [ParkAtMost] says otherwise.
const (
	DefaultParkedEntries = 1000
	DefaultParkedBytes   = 16 << 20
)

// ParkAtMost bounds what the client keeps of parked values: so many, of so many bytes with
// their names, tags and reasons. When they have no room, the oldest go. Zero keeps none; hooks are
// told all the same. The defaults are [DefaultParkedEntries] and [DefaultParkedBytes].
func ParkAtMost(entries int, bytes int64) Option {
	return func(c *config) { c.parkedEntries, c.parkedBytes = entries, bytes }
}

// Parked is a value that an interceptor kept out of the cache and had kept aside: see
// [StoreRequest.Park].
type Parked struct {
	Schema, Key string
	Tags        []string
	// Encoding is the codec's name, and Data the value as it would have been stored. Both
	// are empty for an error that would have been remembered, and Failure is its text. None of
	// it is to be changed.
	Encoding string
	Data     []byte
	Failure  string
	// Why is the interceptor's reason.
	Why string
	// At is when it was parked, and Times how often the key was since it is in the list:
	// the last one is kept.
	At    time.Time
	Times int
}

// parkedKey is what one value is parked of at a time.
type parkedKey struct{ schema, key string }

// park keeps what was to be stored aside.
func (c *Client) park(r *StoreRequest) {
	p := Parked{
		Schema: r.Schema, Key: r.Key, Tags: r.entry.Tags, Encoding: r.entry.Encoding, Data: r.entry.Value,
		Why: r.err.Error(), At: c.now(), Times: 1,
	}
	if r.Failure != nil {
		p.Encoding, p.Data, p.Failure = "", nil, r.Failure.Error()
	}
	p = c.parked.Put(parkedKey{p.Schema, p.Key}, p.size(), func(old Parked, _ bool) Parked {
		p.Times += old.Times
		return p
	})
	c.observer.parked(p)
}

// size is what it takes in memory, but for what every one takes.
func (p *Parked) size() int64 {
	n := len(p.Schema) + len(p.Key) + len(p.Encoding) + len(p.Data) + len(p.Failure) + len(p.Why)
	for _, tag := range p.Tags {
		n += len(tag)
	}
	return int64(n)
}

// Parked tells the values that interceptors of the client and of its caches have parked, the
// oldest first, and how many had to go for lack of room. They are in the memory of this process
// alone, and last as long as the client.
func (c *Client) Parked() (values []Parked, dropped uint64) { return c.parked.All() }

// InterceptorHandler answers GET with the client's interceptors, their health, and what is
// parked, as JSON. Parked values themselves are only shown of a key that is asked for, by the
// parameter key: as the codec made them, in base64. It asks nobody who asks it for credentials:
// mount it where operators alone come.
func (c *Client) InterceptorHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "GET alone is answered", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		_ = out.Encode(c.shown(r.URL.Query())) // whoever asked has gone
	})
}

// shown is what the handler answers.
func (c *Client) shown(query map[string][]string) any {
	type interceptor struct {
		Name  string `json:"name"`
		Error string `json:"error,omitempty"`
	}
	type parked struct {
		Schema   string    `json:"schema,omitempty"`
		Key      string    `json:"key"`
		Tags     []string  `json:"tags,omitempty"`
		Encoding string    `json:"encoding,omitempty"`
		Bytes    int       `json:"bytes"`
		Data     []byte    `json:"data,omitempty"`
		Failure  string    `json:"failure,omitempty"`
		Why      string    `json:"why"`
		At       time.Time `json:"at"`
		Times    int       `json:"times"`
	}
	all := struct {
		Namespace    string        `json:"namespace"`
		Interceptors []interceptor `json:"interceptors"`
		Parked       []parked      `json:"parked"`
		Dropped      uint64        `json:"parked_dropped"`
	}{Namespace: c.namespace, Interceptors: []interceptor{}, Parked: []parked{}}
	for _, i := range c.Interceptors() {
		one := interceptor{Name: i.Name}
		if i.Health != nil {
			one.Error = i.Health.Error()
		}
		all.Interceptors = append(all.Interceptors, one)
	}
	values, dropped := c.Parked()
	all.Dropped = dropped
	keys, some := query["key"]
	for _, p := range values {
		one := parked{p.Schema, p.Key, p.Tags, p.Encoding, len(p.Data), nil, p.Failure, p.Why, p.At.UTC(), p.Times}
		if some {
			if !slices.Contains(keys, p.Key) {
				continue
			}
			one.Data = p.Data
		}
		all.Parked = append(all.Parked, one)
	}
	return all
}
