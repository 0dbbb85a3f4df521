package cluster

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"
)

// witness is told by functions which calls they have.
type witness struct {
	URL string

	mu   sync.Mutex
	seen map[string]int
}

// newWitness listens on the client's host.
func newWitness(t *testing.T, c *Cluster) *witness {
	t.Helper()
	l, err := c.Client.Listen(c.Client.IP() + ":9000")
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{URL: "http://" + l.Addr().String(), seen: map[string]int{}}
	s := &http.Server{Handler: w, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return w
}

// ServeHTTP implements http.Handler.
func (w *witness) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	id, err := io.ReadAll(io.LimitReader(r.Body, 1<<10))
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[string(id)]++
}

// missing is how many of the calls were not executed, twice how many were so
// more than once.
func (w *witness) missing(ids []string) (missing, twice int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range ids {
		switch n := w.seen[id]; {
		case n == 0:
			missing++
		case n > 1:
			twice++
		}
	}
	return missing, twice
}

// all tells whether all were executed.
func (w *witness) all(ids []string) error {
	if n, _ := w.missing(ids); n > 0 {
		return fmt.Errorf("%d of %d accepted calls are not executed", n, len(ids))
	}
	return nil
}
