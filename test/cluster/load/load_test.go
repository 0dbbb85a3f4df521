package load

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/test/bubble"
)

const ms = time.Millisecond

func TestJudge(t *testing.T) {
	good := func(sent, answered time.Duration) Call { return Call{Sent: sent, Answered: answered} }
	bad := func(sent, answered time.Duration) Call { return Call{Sent: sent, Answered: answered, Fault: "x"} }
	for _, c := range []struct {
		name  string
		calls []Call
		want  Verdict
	}{
		{"nothing sent", nil, Verdict{}},
		{"no fault", []Call{good(0, 1*ms), good(10*ms, 11*ms), good(110*ms, 111*ms)}, Verdict{Sent: 3, Gap: 100 * ms, Whole: true}},
		{"one failed", []Call{good(0, 1*ms), bad(101*ms, 150*ms), good(120*ms, 121*ms)}, Verdict{Sent: 3, Failed: 1, Gap: 120 * ms, Recovered: 20 * ms, Whole: true}},
		{"sent before, failed after", []Call{bad(90*ms, 150*ms), good(120*ms, 121*ms)}, Verdict{Sent: 2, Failed: 1, Recovered: 20 * ms, Whole: true}},
		{"failed before", []Call{bad(10*ms, 20*ms), good(120*ms, 121*ms)}, Verdict{Sent: 2, Failed: 1, Whole: true}},
		{"a success in between", []Call{bad(110*ms, 111*ms), good(120*ms, 121*ms), bad(130*ms, 131*ms), good(150*ms, 151*ms)}, Verdict{Sent: 4, Failed: 2, Gap: 30 * ms, Recovered: 50 * ms, Whole: true}},
		{"held, not failed", []Call{good(0, 1*ms), good(101*ms, 900*ms), good(102*ms, 901*ms)}, Verdict{Sent: 3, Gap: 899 * ms, Whole: true}},
		{"never again", []Call{good(0, 1*ms), bad(101*ms, 150*ms)}, Verdict{Sent: 2, Failed: 1}},
		{"answered out of order", []Call{good(0, 50*ms), good(1*ms, 2*ms), good(2*ms, 60*ms)}, Verdict{Sent: 3, Gap: 48 * ms, Whole: true}},
	} {
		got := Judge(c.calls, 100*ms)
		if n := got.Faults["x"]; n != c.want.Failed {
			t.Errorf("%s: %d faults are told, want %d", c.name, n, c.want.Failed)
		}
		got.Faults = nil
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got)\n%s", c.name, d)
		}
	}
}

func TestQuiet(t *testing.T) {
	calls := []Call{
		{Sent: 100 * ms, Answered: 101 * ms, Fault: "x"},
		{Sent: 300 * ms, Answered: 301 * ms},
		{Sent: 900 * ms, Fault: "not answered yet"},
	}
	for now, want := range map[time.Duration]time.Duration{1000 * ms: 900 * ms, 1200 * ms: 300 * ms} {
		if got := Quiet(calls, now); got != want {
			t.Errorf("at %s: %s, want %s", now, got, want)
		}
	}
}

// world is a client to two gateways that do as the test says.
type world func(r *http.Request) (int, error)

func (w world) RoundTrip(r *http.Request) (*http.Response, error) {
	code, err := w(r)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: code, Body: io.NopCloser(strings.NewReader("said")), Request: r}, nil
}

var refused = &net.OpError{Op: "dial", Err: errors.New("refused")}

// run sends 100 calls a second for a second.
func run(t *testing.T, c Config, w world) (calls []Call) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		c.Gateways, c.Rate, c.Name, c.Client = []string{"http://a", "http://b"}, 100, "n", &http.Client{Transport: w}
		l := Start(t.Context(), c)
		time.Sleep(time.Second + ms)
		calls = l.Stop()
	})
	if len(calls) != 100 || calls[7].ID != "n-7" {
		t.Fatalf("%d calls were sent, want 100", len(calls))
	}
	return calls
}

func TestGoesOver(t *testing.T) {
	calls := run(t, Config{}, func(r *http.Request) (int, error) {
		if r.URL.Host == "a" {
			return 0, refused
		}
		return 200, nil
	})
	for i, c := range calls {
		if c.Fault != "" || c.Gateway != 1 {
			t.Errorf("call %d: %+v", i, c)
		}
	}
	if calls[0].Tries != 2 || calls[50].Tries != 1 {
		t.Errorf("%d and %d tries, want 2 and then 1", calls[0].Tries, calls[50].Tries)
	}
}

// What may have taken effect is not sent again, unless its id makes that safe.
func TestResend(t *testing.T) {
	broken := func(r *http.Request) (int, error) {
		if r.URL.Host == "a" {
			return 0, io.ErrUnexpectedEOF
		}
		return 200, nil
	}
	if c := run(t, Config{}, broken); c[0].Fault == "" || c[0].Tries != 1 || c[1].Fault != "" {
		t.Errorf("without: %+v, %+v", c[0], c[1])
	}
	if c := run(t, Config{Resend: true}, broken); c[0].Fault != "" || c[0].Tries != 2 {
		t.Errorf("with: %+v", c[0])
	}
	hangs := func(r *http.Request) (int, error) {
		if r.URL.Host == "a" {
			<-r.Context().Done()
			return 0, context.Cause(r.Context())
		}
		return 200, nil
	}
	if c := run(t, Config{Resend: true}, hangs); c[0].Fault != "" || c[0].Answered-c[0].Sent < tryLimit || c[0].Answered-c[0].Sent > tryLimit+100*ms {
		t.Errorf("the first one hangs: %+v", c[0])
	}
	if c := run(t, Config{Timeout: 300 * ms}, hangs); c[0].Fault == "" || c[0].Answered-c[0].Sent != 300*ms {
		t.Errorf("the first one hangs, and the call has a limit: %+v", c[0])
	}
}

func TestWant(t *testing.T) {
	accepted := func(*http.Request) (int, error) { return 202, nil }
	if c := run(t, Config{}, accepted); c[0].Fault != "202 said" || c[0].Status != 202 || len(Accepted(c)) != 0 {
		t.Errorf("want 200: %+v", c[0])
	}
	if c := run(t, Config{Want: 202}, accepted); c[0].Fault != "" || len(Accepted(c)) != 100 {
		t.Errorf("want 202: %+v", c[0])
	}
}

// The rate is kept when no call is answered.
func TestOpenLoop(t *testing.T) {
	calls := run(t, Config{Timeout: 5 * time.Second}, func(r *http.Request) (int, error) {
		<-r.Context().Done()
		return 0, context.Cause(r.Context())
	})
	if d := calls[99].Sent - calls[0].Sent; d < 980*ms || d > 1000*ms {
		t.Errorf("100 calls were sent within %s", d)
	}
}
