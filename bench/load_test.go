package main

import (
	"bufio"
	"bytes"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[99-i] = float64(i + 1)
	}
	for _, c := range []struct {
		in   []float64
		q    float64
		want float64
	}{
		{nil, 0.5, 0},
		{[]float64{3}, 0.99, 3},
		{[]float64{5, 1, 3}, 0.5, 3},
		{[]float64{1, 2, 3, 4}, 0.5, 2},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 1, 100},
		{hundred, 0, 1},
	} {
		if got := quantile(c.in, c.q); got != c.want {
			t.Errorf("quantile %v of %d values: got %v, want %v", c.q, len(c.in), got, c.want)
		}
	}
}

func TestArrivals(t *testing.T) {
	at := arrivals(2000, 10*time.Second, rand.New(rand.NewPCG(1, 2)))
	if n := len(at); math.Abs(float64(n)-20000) > 600 {
		t.Errorf("%d arrivals in 10 s at 2000 a second", n)
	}
	last := time.Duration(-1)
	gap2 := 0.0
	for _, a := range at {
		if a < last || a >= 10*time.Second {
			t.Fatalf("arrival at %s after one at %s", a, last)
		}
		gap2 += math.Pow((a-max(last, 0)).Seconds()*2000, 2)
		last = a
	}
	// The mean square of exponential gaps is twice the square of their mean;
	// of even gaps it would be once.
	if m := gap2 / float64(len(at)); m < 1.8 || m > 2.2 {
		t.Errorf("the gaps' mean square is %.2f of their mean's square, want 2", m)
	}
}

func TestReadAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		in     string
		status int
		said   string
		fails  bool
	}{
		"length":    {in: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", status: 200},
		"refused":   {in: "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nwhy", status: 503, said: "why"},
		"empty":     {in: "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n", status: 202},
		"chunks":    {in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", status: 200},
		"no answer": {in: "", fails: true},
		"other":     {in: "SSH-2.0-OpenSSH_9\r\n", fails: true},
		"cut short": {in: "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", fails: true},
	} {
		r := bufio.NewReader(strings.NewReader(c.in + "rest"))
		if name == "cut short" || c.in == "" {
			r = bufio.NewReader(strings.NewReader(c.in))
		}
		status, said, err := readAnswer(r)
		if (err != nil) != c.fails || !c.fails && (status != c.status || said != c.said) {
			t.Errorf("%s: got %d and %v", name, status, err)
		}
		if rest, _ := r.ReadString(0); !c.fails && rest != "rest" {
			t.Errorf("%s: %q is left, want what follows the answer", name, rest)
		}
	}
}

// A server that stalls once delays the calls that were due meanwhile, and the
// latencies show it for all of them.
func TestOpenLoopCountsTheWait(t *testing.T) {
	const stall = 200 * time.Millisecond
	var calls atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if calls.Add(1) == 2 { // the first is made when the connection is opened
			<-time.After(stall)
		}
	}))
	defer s.Close()
	p, err := open(t.Context(), get(s.Listener.Addr().String(), "/"), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	var at []time.Duration
	for i := range 10 {
		at = append(at, time.Duration(i)*time.Millisecond)
	}
	got, err := p.open(t.Context(), at)
	if err != nil || len(got) != len(at) {
		t.Fatalf("%d latencies, %v", len(got), err)
	}
	for i, l := range got {
		if least := us(stall - at[i]); l < least {
			t.Errorf("call %d took %.0f µs; it was due %s after one that took %s, so at least %.0f", i, l, at[i], stall, least)
		}
	}
}

func TestCompare(t *testing.T) {
	low := func(name string, ratio float64) row {
		return row{Name: name, Ratio: ratio, Goal: 0.5, Pass: ratio <= 0.5}
	}
	high := func(name string, ratio float64) row {
		return row{Name: name, Ratio: ratio, Goal: 0.5, Pass: ratio >= 0.5}
	}
	old := []row{low("a", 1), low("b", 0.4), high("c", 0.2), high("d", 0.8), low("e", 1), low("gone", 1)}
	now := []row{low("new", 1), low("a", 0.5), low("b", 0.6), high("c", 0.6), high("d", 0.4), low("e", 1.02)}
	var got []string
	for _, c := range compare(old, now) {
		got = append(got, strings.Join([]string{c.name, c.old, c.now, c.change, c.verdict}, " | "))
	}
	want := []string{
		"new | – | 1 | – | new",
		"a | 1 | 0.5 | -50 % | better, passes now",
		"b | 0.4 | 0.6 | +50 % | worse, fails now",
		"c | 0.2 | 0.6 | +200 % | better, passes now",
		"d | 0.8 | 0.4 | -50 % | worse, fails now",
		"e | 1 | 1.02 | +2 % | same",
		"gone | 1 | – | – | gone",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if err := compareFiles(&bytes.Buffer{}, []string{"one"}); err == nil {
		t.Error("one file was compared")
	}
}
