package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/soracache/soracache/client"
)

// The paths that the tests ask for. The search is of few products, because the
// race detector makes SQLite some fifty times slower.
const (
	featuredPath = "/featured?tag=bestseller"
	searchPath   = "/search?category=books&max_price=2"
)

// node is a soracached over an embedded store, which can be killed and started
// again in the same place.
type node struct {
	process
	address, dir string
}

func startNode(t *testing.T) *node {
	t.Helper()
	n := &node{address: freeAddress(t), dir: t.TempDir()}
	n.restart(t)
	return n
}

func (n *node) restart(t *testing.T) {
	t.Helper()
	n.process = start(t, built.soracached, "serve", "--listen", n.address, "--l2", "embedded:"+n.dir)
	n.answers(t, "http://"+n.address+"/readyz")
}

// made is a database that the program itself created, for tests to copy.
var made struct {
	sync.Once
	file []byte
}

// copyOfDatabase returns the path of a fresh database.
func copyOfDatabase(t *testing.T) string {
	t.Helper()
	made.Do(func() {
		path := filepath.Join(t.TempDir(), "catalog.db")
		runProgram(t, path).announces(t, "created 100000 products").ends(t)
		var err error
		if made.file, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	})
	path := filepath.Join(t.TempDir(), "a copy.db")
	if err := os.WriteFile(path, made.file, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// program is the catalog as a user runs it.
type program struct {
	process
	base string
}

func runProgram(t *testing.T, db string) program {
	t.Helper()
	address := freeAddress(t)
	p := program{
		start(t, built.catalog, "--listen", address, "--db", db, "--cache", "http://"+freeAddress(t)),
		"http://" + address,
	}
	p.answers(t, p.base+"/healthz")
	return p
}

func (p program) announces(t *testing.T, what string) program {
	t.Helper()
	if !strings.Contains(p.output.String(), what) {
		t.Errorf("it printed %q, which lacks %q", p.output.String(), what)
	}
	return p
}

func (p program) ends(t *testing.T) {
	t.Helper()
	p.Signal(syscall.SIGTERM)
	if code := p.ExitCode(t, 30*time.Second); code != 0 {
		t.Errorf("it ended with exit code %d", code)
	}
}

// shop is the application in this process, over a database of its own.
type shop struct {
	*catalog
	t    *testing.T
	db   *database
	base string
}

// unhurried is the patience of tests that are not about time: the machine may
// be busy with other things.
func unhurried() patience {
	return patience{request: time.Minute, wait: 40 * time.Second, pay: 20 * time.Second, cache: 10 * time.Second}
}

func openShop(t *testing.T, db, cache string, most patience, opts ...client.DialOption) *shop {
	t.Helper()
	s := &shop{t: t}
	var err error
	if s.db, _, err = openDatabase(context.Background(), db); err != nil {
		t.Fatal(err)
	}
	if s.catalog, err = newCatalog(context.Background(), s.db, cache, most, opts...); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s.handler())
	s.base = server.URL
	t.Cleanup(func() {
		server.Close()
		if err := s.catalog.close(); err != nil {
			t.Error(err)
		}
		if err := s.db.close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// answer is what came back for a request.
type answer struct {
	status int
	header http.Header
	body   string
	took   time.Duration
}

// in returns the shop for a subtest.
func (s *shop) in(t *testing.T) *shop { return &shop{s.catalog, t, s.db, s.base} }

func (s *shop) ask(method, path, body string) answer {
	s.t.Helper()
	a, err := ask(method, s.base+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func ask(method, url, body string) (answer, error) {
	begun := time.Now()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	res, err := web.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(b), time.Since(begun)}, err
}

// get asks for something that is there, and says how many SQL loads that took.
func (s *shop) get(path string, into any) (loads string) {
	s.t.Helper()
	a := s.ask(http.MethodGet, path, "")
	if a.status != http.StatusOK {
		s.t.Fatalf("GET %s: %d %s", path, a.status, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		s.t.Fatalf("GET %s: %v in %s", path, err, a.body)
	}
	return a.header.Get("X-Cache-Loads")
}

// expect asks for something, and demands that it is what the database has now
// and that it took so many SQL loads.
func (s *shop) expect(loads string, paths ...string) {
	s.t.Helper()
	for _, path := range paths {
		truth := s.truth(path)
		got := reflect.New(reflect.TypeOf(truth))
		if n := s.get(path, got.Interface()); n != loads {
			s.t.Errorf("GET %s took %s SQL loads, want %s", path, n, loads)
		}
		if !reflect.DeepEqual(got.Elem().Interface(), truth) {
			s.t.Errorf("GET %s: got %.300s…, the database has %.300s…", path, fmt.Sprint(got.Elem()), fmt.Sprint(truth))
		}
	}
}

// warm waits until what is asked for comes from the cache.
func (s *shop) warm(paths ...string) {
	s.t.Helper()
	for _, path := range paths {
		eventually(s.t, path+" is cached", func() error {
			if loads := s.ask(http.MethodGet, path, "").header.Get("X-Cache-Loads"); loads != "0" {
				return errors.New(loads + " SQL loads")
			}
			return nil
		})
	}
}

// truth is what the database says, past the application and its cache.
func (s *shop) truth(path string) (v any) {
	s.t.Helper()
	u, err := url.Parse(path)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, q := context.Background(), u.Query()
	var id, price int64
	switch n, _ := fmt.Sscanf(u.Path, "/products/%d", &id); {
	case n == 1:
		v, err = s.db.product(ctx, id)
	case u.Path == "/featured":
		v, err = s.db.featured(ctx, q.Get("tag"))
	default:
		if _, err = fmt.Sscan(q.Get("max_price"), &price); err == nil {
			v, err = s.db.search(ctx, q.Get("category"), price*100)
		}
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// first is the first product of a list as it is in the database.
func (s *shop) first(path string) Product { return truth[List](s, path).Products[0] }

func truth[T any](s *shop, path string) T {
	s.t.Helper()
	v, ok := s.truth(path).(T)
	if !ok {
		s.t.Fatalf("GET %s gives no %T", path, v)
	}
	return v
}

// put changes a product, and demands what becomes of the invalidation.
func (s *shop) put(p Product, invalidation string) Product {
	s.t.Helper()
	body, err := json.Marshal(p)
	if err != nil {
		s.t.Fatal(err)
	}
	a := s.ask(http.MethodPut, productPath(p.ID), string(body))
	if a.status != http.StatusOK || a.header.Get("X-Cache-Invalidation") != invalidation {
		s.t.Fatalf("PUT: %d, invalidation %s, want %s: %s", a.status, a.header.Get("X-Cache-Invalidation"), invalidation, a.body)
	}
	var changed Product
	if err := json.Unmarshal([]byte(a.body), &changed); err != nil {
		s.t.Fatal(err)
	}
	if changed.Version != p.Version+1 {
		s.t.Fatalf("version %d after %d", changed.Version, p.Version)
	}
	return changed
}

func productPath(id int64) string { return fmt.Sprintf("/products/%d", id) }

// settled waits until the cache knows of every update.
func (s *shop) settled() {
	s.t.Helper()
	eventually(s.t, "every debt is paid", func() error {
		if s.debts.owed() {
			return errors.New("something is owed")
		}
		return nil
	})
}

func TestProgram(t *testing.T) {
	path := copyOfDatabase(t) // which is the first run
	p := runProgram(t, path)
	if a, err := ask(http.MethodGet, p.base+"/products/42", ""); err != nil || a.status != http.StatusOK ||
		!strings.Contains(a.body, `"name":"Folded Drum 42","category":"books","price_cents":4211`) {
		t.Errorf("product 42 without a cache: %d %s %v", a.status, a.body, err)
	}
	p.ends(t)
	if strings.Contains(p.output.String(), "created") {
		t.Error("the second run created the products again")
	}
}

// The life of an application with its cache, in order.
func TestCatalog(t *testing.T) {
	n := startNode(t)
	path := copyOfDatabase(t)
	life := openShop(t, path, "http://"+n.address, unhurried())
	all := []string{"/products/7", "/products/8", featuredPath, searchPath}

	t.Run("cold, then warm", func(t *testing.T) {
		s := life.in(t)
		s.expect("1", all...)
		for range 3 {
			s.expect("0", all...)
		}
	})
	t.Run("fifty at once in two processes load once", func(t *testing.T) {
		s := life.in(t)
		// Two clients share nothing but the cache.
		other := openShop(t, path, "http://"+n.address, unhurried())
		loadsOnce(t, "/search?category=toys&max_price=2", s, other)
		loadsOnce(t, "/products/4711", s, other)
	})
	t.Run("an update is seen by the next read of everything it concerns", func(t *testing.T) {
		s := life.in(t)
		elsewhere := keepElsewhere(t, n)
		cheap := s.first(searchPath)
		s.get(productPath(cheap.ID), new(Product))
		s.expect("0", productPath(cheap.ID), featuredPath, searchPath)
		cheap.PriceCents = 5_000
		s.put(cheap, "done")
		s.expect("1", productPath(cheap.ID), featuredPath, searchPath)
		if l := truth[List](s, searchPath); l.Products[0].ID == cheap.ID {
			t.Error("the product should have left the search")
		}
		s.expect("0", all...) // other products did not notice, and lists are warm again
		elsewhere.stillThere(t)

		best := s.first(featuredPath)
		best.Sales = 0
		s.put(best, "done")
		s.expect("1", productPath(best.ID), featuredPath, searchPath)
		s.expect("0", all...)
	})
	t.Run("no reader beside updates ever goes back", func(t *testing.T) { neverGoesBack(t, life.in(t)) })
	t.Run("the cache is killed", func(t *testing.T) {
		s := life.in(t)
		s.get(featuredPath, new(List)) // nobody has asked for it since the last update,
		s.get(searchPath, new(List))   // and what was loaded beside that may not have been kept
		s.expect("0", all...)
		n.Kill()
		// The application's own memory goes on for as long as it can be trusted.
		eventually(t, "every read asks the database", func() error {
			for _, path := range all {
				if loads := s.ask(http.MethodGet, path, "").header.Get("X-Cache-Loads"); loads != "1" {
					return errors.New(loads + " SQL loads")
				}
			}
			return nil
		})
		s.expect("1", all...)
		if s.counts.failOpen.Load() == 0 {
			t.Error("the client noticed nothing")
		}
		best := s.first(featuredPath)
		best.Name = "Renamed while the cache was down"
		s.put(best, "owed")
		s.expect("1", productPath(best.ID), featuredPath, searchPath)
	})
	t.Run("the cache is back", func(t *testing.T) {
		s := life.in(t)
		n.restart(t)
		// The store has survived, with the lists of before the update. Nobody
		// is shown them at any time.
		best := s.first(featuredPath)
		for s.debts.owed() {
			var l List
			s.get(featuredPath, &l)
			if l.Products[0].Name != best.Name {
				t.Fatalf("an old list: %+v", l.Products[0])
			}
		}
		s.expect("0", "/products/7", "/products/8") // warm since before the kill
		s.expect("1", searchPath)
		s.get(featuredPath, new(List)) // the last of the loop may have loaded it
		s.expect("0", all...)
	})
}

// loadsOnce has 50 readers ask for what is not cached, at once and through
// several applications.
func loadsOnce(t *testing.T, path string, shops ...*shop) {
	t.Helper()
	var wg sync.WaitGroup
	var loads atomic.Int64
	begin := make(chan struct{})
	for i := range 50 {
		wg.Go(func() {
			<-begin
			a, err := ask(http.MethodGet, shops[i%len(shops)].base+path, "")
			if err != nil || a.status != http.StatusOK {
				t.Errorf("GET %s: %d %s %v", path, a.status, a.body, err)
			}
			if a.header.Get("X-Cache-Loads") == "1" {
				loads.Add(1)
			}
		})
	}
	close(begin)
	wg.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("50 readers of %s caused %d SQL loads", path, n)
	}
	for _, s := range shops {
		s.expect("0", path)
	}
}

// elsewhere is a value in another namespace, under a tag of the same name.
type elsewhere struct {
	client *client.Client
	cache  *client.Cache[string]
}

func keepElsewhere(t *testing.T, n *node) elsewhere {
	t.Helper()
	c, err := client.Dial([]string{"http://" + n.address}, client.Namespace("elsewhere"), client.Timeout(10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	cache := client.NewCache[string](c, client.Default().WithTags(tagProducts))
	if _, err := cache.GetOrSet(context.Background(), "k", func(context.Context) (string, error) { return "v", nil }); err != nil {
		t.Fatal(err)
	}
	e := elsewhere{c, cache}
	e.stillThere(t)
	return e
}

func (e elsewhere) stillThere(t *testing.T) {
	t.Helper()
	if v, ok, err := e.cache.Get(context.Background(), "k"); err != nil || !ok || v != "v" {
		t.Errorf("the value in another namespace: %q, %t, %v", v, ok, err)
	}
}

// neverGoesBack reads while a product is updated again and again. Whatever a
// reader is given must be at least as new as the last update that was answered
// before the reader asked.
func neverGoesBack(t *testing.T, s *shop) {
	t.Helper()
	const updates = 12
	p := s.first(searchPath)
	id := p.ID
	var answered atomic.Int64
	answered.Store(p.Version)
	var done atomic.Bool
	var wg sync.WaitGroup
	var reads atomic.Int64
	for _, path := range []string{productPath(id), searchPath, productPath(id), searchPath} {
		wg.Go(func() {
			for !done.Load() {
				least := answered.Load()
				a, err := ask(http.MethodGet, s.base+path, "")
				if err != nil || a.status != http.StatusOK {
					t.Errorf("GET %s: %d %s %v", path, a.status, a.body, err)
					return
				}
				if v := versionIn(t, a.body, id); v < least {
					t.Errorf("GET %s gave version %d after the update to version %d was answered", path, v, least)
				}
				reads.Add(1)
			}
		})
	}
	for range updates {
		p.Name = fmt.Sprintf("Version %d", p.Version+1)
		p = s.put(p, "done")
		answered.Store(p.Version)
		enough := reads.Load() + 8 // some reads between updates
		eventually(t, "readers go on", func() error {
			if reads.Load() < enough && !t.Failed() {
				return errors.New("too few reads")
			}
			return nil
		})
	}
	done.Store(true)
	wg.Wait()
	t.Logf("%d reads beside %d updates; %d loads came too late to be kept", reads.Load(), updates, s.counts.superseded.Load())
	s.expect(s.get(productPath(id), new(Product)), productPath(id))
}

// versionIn finds a product in an answer: the answer itself or a part of it.
func versionIn(t *testing.T, body string, id int64) int64 {
	t.Helper()
	var l struct {
		Product
		List
	}
	if err := json.Unmarshal([]byte(body), &l); err != nil {
		t.Error(err)
		return 0
	}
	for _, p := range append(l.Products, l.Product) {
		if p.ID == id {
			return p.Version
		}
	}
	t.Errorf("product %d is not in %s", id, body)
	return 0
}

// A cache that accepts connections and answers nothing is the hardest to do
// without.
func TestCacheHangs(t *testing.T) {
	n := startNode(t)
	most := unhurried()
	most.cache, most.pay, most.wait = client.DefaultTimeout, 500*time.Millisecond, 100*time.Millisecond
	s := openShop(t, copyOfDatabase(t), "http://"+n.address, most)
	s.warm("/products/7", "/products/8")
	n.Signal(syscall.SIGSTOP)
	eventually(t, "the cache hangs", func() error {
		if okay("http://"+n.address+"/healthz") == nil {
			return errors.New("it answers")
		}
		return nil
	})
	a := s.ask(http.MethodGet, "/products/7", "")
	if most := defaultPatience().request; a.status != http.StatusOK || a.header.Get("X-Cache-Loads") != "1" || a.took > most {
		t.Errorf("%d with %s SQL loads after %s", a.status, a.header.Get("X-Cache-Loads"), a.took)
	}
	t.Logf("a read without the cache took %s", a.took)
	p := truth[Product](s, "/products/7")
	p.Name = "Changed while the cache hung"
	s.put(p, "owed")
	s.expect("1", "/products/7")
	n.Signal(syscall.SIGCONT)
	s.settled()
	// The request that was given up has been answered by now, perhaps with a
	// lease, which then has to run out before the product is cached again. It is
	// the new one meanwhile.
	if s.get("/products/7", &p); p.Name != "Changed while the cache hung" {
		t.Errorf("an old product: %+v", p)
	}
	s.warm("/products/8")
}

// The process dies after it has committed and before it has invalidated.
func TestDebtsOutliveTheProcess(t *testing.T) {
	n := startNode(t)
	path := copyOfDatabase(t)
	var owed []debt
	t.Run("the process that dies", func(t *testing.T) {
		s := openShop(t, path, "http://"+n.address, unhurried())
		s.expect("1", "/products/7", featuredPath)
		var err error
		_, owed, err = s.db.update(context.Background(), 7, Change{Name: "New", Category: "books", PriceCents: 1, Sales: 2})
		if err != nil {
			t.Fatal(err)
		}
	})
	if len(owed) != 2 {
		t.Fatalf("owed: %v", owed)
	}
	s := openShop(t, path, "http://"+n.address, unhurried())
	var p Product
	if s.get("/products/7", &p); p.Name != "New" {
		t.Errorf("the next process gave %+v", p)
	}
	s.settled()
	if left, err := s.db.debts(context.Background()); err != nil || len(left) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
	s.get(featuredPath, new(List))
	s.expect("0", featuredPath)
}

func TestBadRequests(t *testing.T) {
	s := openShop(t, copyOfDatabase(t), "http://"+freeAddress(t), unhurried())
	good := `{"name":"n","category":"books","price_cents":1,"sales":1}`
	tests := []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/products/0", "", 400},
		{"GET", "/products/x", "", 400},
		{"GET", "/products/100001", "", 404},
		{"GET", "/featured?tag=" + strings.Repeat("x", 65), "", 400},
		{"GET", "/search?max_price=1", "", 400},
		{"GET", "/search?category=books", "", 400},
		{"GET", "/search?category=books&max_price=-1", "", 400},
		{"GET", "/search?category=books&max_price=NaN", "", 400},
		{"GET", "/search?category=nothing&max_price=1", "", 200},
		{"PUT", "/products/100001", good, 404},
		{"PUT", "/products/1", "{", 400},
		{"PUT", "/products/1", strings.Replace(good, `"n"`, `""`, 1), 400},
		{"PUT", "/products/1", strings.Replace(good, `"books"`, `""`, 1), 400},
		{"PUT", "/products/1", strings.Replace(good, `cents":1`, `cents":0`, 1), 400},
		{"PUT", "/products/1", strings.Replace(good, `sales":1`, `sales":-1`, 1), 400},
		{"PUT", "/products/1", `{"name":"` + strings.Repeat("x", 1<<17) + `"}`, 400},
		{"DELETE", "/products/1", "", 405},
		{"GET", "/nowhere", "", 404},
	}
	for _, test := range tests {
		if a := s.ask(test.method, test.path, test.body); a.status != test.status {
			t.Errorf("%s %.60s %.60s: %d %s, want %d", test.method, test.path, test.body, a.status, a.body, test.status)
		}
	}
	if s.debts.owed() {
		t.Error("a refused update owes something")
	}
}
