package attack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	soracachev1 "github.com/soracache/soracache/proto/soracache/v1"
	"github.com/soracache/soracache/proto/soracache/v1/soracachev1connect"
)

// Usage is what a process takes: memory in bytes, and time of processors.
type Usage struct {
	// Peak is the most that was resident since the last reset, Now what is.
	Peak, Now int64
	CPU       time.Duration
}

// UsageOf reads what a process takes (Linux).
func UsageOf(pid int) (Usage, error) {
	var u Usage
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch name {
		case "VmHWM":
			u.Peak = kib << 10
		case "VmRSS":
			u.Now = kib << 10
		}
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return u, errors.New("no times in stat")
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	u.CPU = time.Duration(user+system) * 10 * time.Millisecond
	return u, nil
}

// ResetPeak makes the peak begin anew.
func ResetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// Prepare stores n large values, and what the well-behaved client reads.
func Prepare(ctx context.Context, addr string, n, bytes int) (keys []string, err error) {
	cache, end := newCache(addr)
	defer end()
	value := make([]byte, bytes)
	for i := range n {
		key := fmt.Sprint("large", i)
		if _, err := cache.Set(ctx, &soracachev1.SetRequest{Key: key, Value: value, Ttl: durationpb.New(time.Hour)}); err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func newCache(addr string) (soracachev1connect.CacheServiceClient, func()) {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	return soracachev1connect.NewCacheServiceClient(&http.Client{Transport: transport}, "http://"+addr,
		connect.WithAcceptCompression("gzip", nil, nil)), transport.CloseIdleConnections
}

// Client is a well-behaved client: it reads, loads, writes and invalidates, one
// call after the other.
type Client struct {
	Calls, Failed int
	// Why is the first failure.
	Why   error
	times []time.Duration
}

// P99 is the 99th percentile of the time that a call took.
func (c *Client) P99() time.Duration {
	if len(c.times) == 0 {
		return 0
	}
	slices.Sort(c.times)
	return c.times[len(c.times)*99/100]
}

// Behave makes calls until the context ends.
func Behave(ctx context.Context, addr string) *Client {
	c := &Client{}
	cache, end := newCache(addr)
	defer end()
	small, middle := make([]byte, 1<<10), make([]byte, 64<<10)
	hour := durationpb.New(time.Hour)
	call := func(what string, do func(ctx context.Context) error) {
		began := time.Now()
		callCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err := do(callCtx)
		c.times = append(c.times, time.Since(began))
		c.Calls++
		if err != nil {
			if c.Failed++; c.Why == nil {
				c.Why = fmt.Errorf("%s: %w", what, err)
			}
		}
	}
	for i := 0; ctx.Err() == nil; i++ {
		key := fmt.Sprint("good", i%100)
		call("set", func(ctx context.Context) error {
			value := small
			if i%10 == 0 {
				value = middle
			}
			_, err := cache.Set(ctx, &soracachev1.SetRequest{Key: key, Value: value, Tags: []string{"good"}, Ttl: hour})
			return err
		})
		for range 4 {
			call("get", func(ctx context.Context) error {
				got, err := cache.Get(ctx, &soracachev1.GetRequest{Key: key})
				if err == nil && len(got.Value) < len(small) {
					err = fmt.Errorf("%v of %d bytes", got.Status, len(got.Value))
				}
				return err
			})
		}
		cold := fmt.Sprint("cold", i)
		var lease []byte
		call("get with a lease", func(ctx context.Context) error {
			got, err := cache.Get(ctx, &soracachev1.GetRequest{Key: cold, Lease: true})
			lease = got.GetLease()
			return err
		})
		if lease != nil {
			call("fill", func(ctx context.Context) error {
				_, err := cache.Fill(ctx, &soracachev1.FillRequest{Key: cold, Lease: lease, Value: small, Ttl: hour})
				return err
			})
		}
		call("invalidate", func(ctx context.Context) error {
			_, err := cache.Invalidate(ctx, &soracachev1.InvalidateRequest{Keys: []string{cold}})
			return err
		})
		time.Sleep(time.Millisecond) // it has other things to do
	}
	return c
}

// Report is what became of an attack.
type Report struct {
	Attack                   string
	Requests, Bytes, Refused int64
	// Before and Peak are the process' memory, and CPU what it used meanwhile.
	Before, Peak int64
	CPU          time.Duration
	Client       *Client
	Err          error
}

// Run attacks a node, of which the process is given, while a well-behaved client
// goes on.
func Run(ctx context.Context, a Attack, t Target, pid int) Report {
	r := Report{Attack: a.Name}
	before, err := UsageOf(pid)
	if err == nil {
		err = ResetPeak(pid)
	}
	if err != nil {
		r.Err = err
		return r
	}
	behaving, end := context.WithCancel(ctx)
	var client sync.WaitGroup
	client.Go(func() { r.Client = Behave(behaving, t.Addr) })
	var sent Sent
	r.Err = a.Do(ctx, t, &sent)
	end()
	client.Wait()
	after, err := UsageOf(pid)
	r.Err = errors.Join(r.Err, err)
	r.Requests, r.Bytes, r.Refused = sent.Requests.Load(), sent.Bytes.Load(), sent.Refused.Load()
	r.Before, r.Peak, r.CPU = before.Now, after.Peak, after.CPU-before.CPU
	return r
}

// String is one row of a table.
func (r Report) String() string {
	row := fmt.Sprintf("%-38s %6d sent %6d refused  before %5d MiB  peak %5d MiB  cpu %6s",
		r.Attack, r.Requests, r.Refused, r.Before>>20, r.Peak>>20, r.CPU.Round(10*time.Millisecond))
	if c := r.Client; c != nil {
		row += fmt.Sprintf("  client %5d calls %4d failed p99 %s", c.Calls, c.Failed, c.P99().Round(10*time.Microsecond))
	}
	return row
}
