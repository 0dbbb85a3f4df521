package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// ledger takes callbacks and counts them by call id.
type ledger struct {
	*httptest.Server
	mu   sync.Mutex
	seen map[string]int
	last http.Header
	body string
}

func newLedger(t *testing.T) *ledger {
	l := &ledger{seen: map[string]int{}}
	l.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.seen[r.Header.Get("X-Call-Id")]++
		l.last, l.body = r.Header.Clone(), string(b)
	}))
	t.Cleanup(l.Close)
	return l
}

// missing says which ids were not called back.
func (l *ledger) missing(ids []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, id := range ids {
		if l.seen[id] == 0 {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("%d of %d accepted calls were not executed", n, len(ids))
	}
	return nil
}

// enqueue queues one call and answers with its id, "" when it was not accepted.
func enqueue(p *platform.Platform, function, body, callback string) (id string, err error) {
	req, err := http.NewRequest(http.MethodPost, p.URL+"/async-function/"+function, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	if callback != "" {
		req.Header.Set("X-Callback-Url", callback)
	}
	c := &http.Client{Timeout: 30 * time.Second}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusAccepted {
		return "", fmt.Errorf("%d %s", resp.StatusCode, b)
	}
	return resp.Header.Get("X-Call-Id"), nil
}

func asynchronous(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "later", Labels: map[string]string{"com.openfaas.scale.zero": "true"}})
	l := newLedger(t)
	var ids []string
	for i := range 50 {
		id, err := enqueue(p, "later", fmt.Sprint("call ", i), l.URL)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	platform.Eventually(t, 30*time.Second, func() error { return l.missing(ids) })
	l.mu.Lock()
	if h := l.last; h.Get("X-Function-Status") != "200" || !strings.HasPrefix(h.Get("X-Function-Name"), "later") || h.Get("X-Duration-Seconds") == "" || !strings.HasPrefix(l.body, "call ") {
		t.Errorf("the callback had %v %q", h, l.body)
	}
	l.mu.Unlock()
	if _, err := enqueue(p, "nobody", "x", ""); err == nil || !strings.HasPrefix(err.Error(), "404") {
		t.Errorf("queueing for a function that is not there: %v, want 404", err)
	}
	if _, err := enqueue(p, "later", "x", "ftp://example"); err == nil || !strings.HasPrefix(err.Error(), "400") {
		t.Errorf("a callback URL that can't be: %v, want 400", err)
	}
	if code, _, _ := invoke(t, p, "GET", "/async-function/later", ""); code != 405 {
		t.Errorf("GET: got %d, want 405", code)
	}
	if id := strings.TrimSpace(p.MustFaas("x", "invoke", "-a", "later")); id == "" {
		t.Error("faas invoke -a printed no call id")
	}
}
