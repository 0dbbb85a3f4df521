package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
)

// load calls a URL so many times a second, whether or not earlier calls were
// answered (but for the most that may be open, which no test here comes near).
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	client *http.Client
	body   func(string) io.Reader

	mu     sync.Mutex
	sent   int
	faults []string
}

const mostOpen = 2000

func startLoad(t *testing.T, url string, rate int) *load {
	t.Helper()
	return startRate(t, url, rate, func(s string) io.Reader { return strings.NewReader(s) })
}

// startRate is startLoad with bodies that it is told how to make.
func startRate(t *testing.T, url string, rate int, body func(string) io.Reader) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{cancel: cancel, body: body, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: mostOpen}, Timeout: 30 * time.Second}}
	room := make(chan struct{}, mostOpen)
	l.wg.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case room <- struct{}{}:
			default:
				l.note(fmt.Sprintf("%d calls are not answered", mostOpen))
				return
			}
			l.wg.Go(func() {
				defer func() { <-room }()
				l.note(l.call(url))
			})
		}
	})
	t.Cleanup(func() { l.stop() })
	return l
}

// call answers with what is wrong with the answer, "" if nothing is.
func (l *load) call(url string) string {
	resp, err := l.client.Post(url, "text/plain", l.body("x"))
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 || string(b) != "x" {
		return fmt.Sprintf("%d %q %v", resp.StatusCode, b, err)
	}
	return ""
}

func (l *load) note(fault string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	if fault != "" {
		l.faults = append(l.faults, fault)
	}
}

// count is how many calls have been answered up to now.
func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sent
}

// stop ends the load, waits for the answers and tells how many calls were made
// and what was wrong.
func (l *load) stop() (sent int, faults []string) {
	l.cancel()
	l.wg.Wait()
	l.client.CloseIdleConnections()
	return l.sent, l.faults
}

// failed tells whether a call has failed up to now.
func (l *load) failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.faults) > 0
}

// must fails the test for any fault. It lets the load go on until there were least
// calls: what it is to show something of may have taken less time.
func (l *load) must(t *testing.T, least int) {
	t.Helper()
	platform.Eventually(t, 20*time.Second, func() error {
		if n := l.count(); n < least && !l.failed() {
			return fmt.Errorf("only %d calls were made, want %d", n, least)
		}
		return nil
	})
	sent, faults := l.stop()
	if len(faults) > 0 {
		t.Errorf("%d of %d calls failed, the first: %s", len(faults), sent, faults[0])
	}
}

// A function is updated under 500 calls a second: none fails.
func rollingUpdate(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "rolling", EnvVars: map[string]string{"V": "0"}})
	platform.Eventually(t, 20*time.Second, available(t, p, "rolling", 1))
	l := startLoad(t, p.URL+"/function/rolling?sleep=20ms", 500)
	for v := 1; v <= 3; v++ {
		deploy(t, p, openfaas.FunctionDeployment{Service: "rolling", EnvVars: map[string]string{"V": fmt.Sprint(v)}})
		platform.Eventually(t, 30*time.Second, func() error {
			code, body, _ := invoke(t, p, "GET", "/function/rolling/env", "")
			if code != 200 || !strings.Contains(body, fmt.Sprintf(`"V=%d"`, v)) {
				return fmt.Errorf("version %d does not serve yet: %d", v, code)
			}
			if n := l.count(); n < v*100 {
				return fmt.Errorf("%d calls until now", n) // an update takes less time than it takes to show anything
			}
			return nil
		})
	}
	l.must(t, 300)
}

// Replicas that still work on slow calls are taken away: the calls end as if
// nothing had happened, and then the replicas go.
func scaleDownBusy(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "slow", Labels: map[string]string{
		"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "3", "com.openfaas.scale.factor": "0",
	}})
	if err := p.Client.Scale(t.Context(), "", "slow", 3); err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, 20*time.Second, available(t, p, "slow", 3))
	const calls = 30
	begun, faults := make(chan struct{}, calls), make(chan string, calls)
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			// The body's end comes late: the replica has the call long before.
			body, input := io.Pipe()
			go func() {
				_, _ = io.WriteString(input, "x")
				begun <- struct{}{}
				time.AfterFunc(1500*time.Millisecond, func() { input.Close() })
			}()
			resp, err := http.Post(p.URL+"/function/slow", "text/plain", body)
			if err != nil {
				faults <- err.Error()
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || string(b) != "x" {
				faults <- fmt.Sprintf("%d %q %v", resp.StatusCode, b, err)
			}
		})
	}
	for range calls {
		<-begun // the transport has taken the body's beginning
	}
	if err := p.Client.Scale(t.Context(), "", "slow", 1); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	close(faults)
	for f := range faults {
		t.Error("a call in flight:", f)
	}
	platform.Eventually(t, 20*time.Second, func() error {
		if n := len(pods(t, p, "slow")); n != 1 {
			return fmt.Errorf("%d pods are left, want 1", n)
		}
		return nil
	})
}

// One of two replicas is killed with SIGKILL under load. The calls that it had
// fail, as they may have taken effect; no other does, and it comes back.
func replicaKilled(t *testing.T, p *platform.Platform) {
	deploy(t, p, openfaas.FunctionDeployment{Service: "mortal", Labels: map[string]string{"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2"}})
	platform.Eventually(t, 20*time.Second, available(t, p, "mortal", 2))
	l := startLoad(t, p.URL+"/function/mortal?sleep=5ms", 200)
	platform.Eventually(t, 10*time.Second, func() error {
		if n := l.count(); n < 50 {
			return fmt.Errorf("%d calls", n)
		}
		return nil
	})
	// The function ends itself as hard as a signal would end it.
	if code, _, _ := invoke(t, p, "POST", "/function/mortal?exit=137", "x"); code != 502 {
		t.Errorf("the call that ends its replica is answered %d, want 502", code)
	}
	platform.Eventually(t, 20*time.Second, func() error {
		for _, pod := range pods(t, p, "mortal") {
			if s := pod.Status.ContainerStatuses; len(s) > 0 && s[0].RestartCount > 0 && s[0].Ready {
				return nil
			}
		}
		return fmt.Errorf("no container was started again")
	})
	platform.Eventually(t, 20*time.Second, available(t, p, "mortal", 2))
	back := l.count()
	platform.Eventually(t, 10*time.Second, func() error {
		if n := l.count() - back; n < 50 {
			return fmt.Errorf("%d calls since it is back", n)
		}
		return nil
	})
	sent, faults := l.stop()
	// At 200 calls a second of 5 ms each there is one in flight, on a machine
	// that is busy some more.
	if len(faults) > 20 || sent < 100 {
		t.Errorf("%d of %d calls failed, want those that the replica had", len(faults), sent)
	}
	for _, f := range faults {
		if !strings.HasPrefix(f, "502 ") {
			t.Errorf("a call failed with %s, want 502", f)
		}
	}
	t.Logf("%d of %d calls failed with the replica", len(faults), sent)
}
