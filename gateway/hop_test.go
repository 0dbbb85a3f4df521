package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/gateway"
	"github.com/podsnap/podsnap/gateway/auth"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"k8s.io/apimachinery/pkg/types"
)

// roleKey makes this test binary a process of BenchmarkHop.
const roleKey = "PODSNAP_HOP_ROLE"

func TestMain(m *testing.M) {
	switch role, rest, _ := strings.Cut(os.Getenv(roleKey), " "); role {
	case "function":
		hopFunction()
	case "gateway":
		hopGateway(rest)
	default:
		goleak.VerifyTestMain(m)
	}
}

func hopListen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	return l
}

func hopFunction() {
	http.Serve(hopListen(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }))
}

// hopGateway is a whole gateway, auth and metrics on, with one function whose
// replica is at address.
func hopGateway(address string) {
	events := make(chan api.EndpointEvent, 10)
	objects := memory.New(memory.Config{Namespaces: true})
	g, err := gateway.New(gateway.Config{
		Objects: objects, Name: "hop", Metrics: prometheus.NewRegistry(), Auth: auth.Config{User: "admin", Password: "secret"},
		Capacity: &replicas{address: address, events: events, given: map[types.NamespacedName]bool{}},
	})
	if err != nil {
		panic(err)
	}
	go g.Run(context.Background())
	l := hopListen()
	go func() {
		c := openfaas.Client{URL: "http://" + l.Addr().String(), User: "admin", Password: "secret"}
		for c.Create(context.Background(), openfaas.FunctionDeployment{Service: "hi", Image: "x:1"}) != nil {
			runtime.Gosched() // the namespace is not there yet
		}
	}()
	if err := g.Front().Serve(l); err != nil {
		panic(err)
	}
}

// hopStart runs a role in a process of its own, and answers with its address
// and its id.
func hopStart(b *testing.B, role string) (string, int) {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleKey+"="+role)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line), cmd.Process.Pid
}

// hopCPU is the processor time of a process, which says what a call costs
// whatever else the machine does.
func hopCPU(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	var user, system int
	after := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if _, err := fmt.Sscan(after[11]+" "+after[12], &user, &system); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // ticks
}

// caller is one connection that asks for the same again and again.
type caller struct {
	net.Conn
	br      *bufio.Reader
	request []byte
}

func newCaller(b *testing.B, addr, path string) *caller {
	b.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return &caller{c, bufio.NewReader(c), []byte("GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: hop\r\nAccept: */*\r\n\r\n")}
}

func (c *caller) call() error {
	if _, err := c.Write(c.request); err != nil {
		return err
	}
	first := true
	for {
		line, err := c.br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && string(line) != "HTTP/1.1 200 OK\r\n" {
			return fmt.Errorf("answer %q", line)
		}
		if first = false; len(line) == 2 {
			_, err := c.br.Discard(5)
			return err
		}
	}
}

func callers(b *testing.B, n int, addr, path string) []*caller {
	cs := make([]*caller, n)
	for i := range cs {
		cs[i] = newCaller(b, addr, path)
	}
	return cs
}

// each runs f for all at once.
func each(b *testing.B, cs []*caller, f func(int, *caller) error) {
	b.Helper()
	var wg sync.WaitGroup
	for i, c := range cs {
		wg.Go(func() {
			if err := f(i, c); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
}

// closed is how many calls a second get through.
func closed(b *testing.B, cs []*caller, d time.Duration) float64 {
	n := make([]int, len(cs))
	end := time.Now().Add(d)
	each(b, cs, func(i int, c *caller) error {
		for time.Now().Before(end) {
			if err := c.call(); err != nil {
				return err
			}
			n[i]++
		}
		return nil
	})
	sum := 0
	for _, n := range n {
		sum += n
	}
	return float64(sum) / d.Seconds()
}

// open calls at random times, rate a second, and answers with the latencies
// from when a call was due.
func open(b *testing.B, cs []*caller, rate float64, d time.Duration) []time.Duration {
	out := make([][]time.Duration, len(cs))
	begin := time.Now()
	each(b, cs, func(i int, c *caller) error {
		r := rand.New(rand.NewPCG(1, uint64(i)))
		timer := time.NewTimer(0)
		<-timer.C
		for due := time.Duration(0); ; {
			if due += time.Duration(r.ExpFloat64() * float64(len(cs)) / rate * 1e9); due > d {
				return nil
			}
			timer.Reset(time.Until(begin.Add(due)))
			<-timer.C
			if err := c.call(); err != nil {
				return err
			}
			out[i] = append(out[i], time.Since(begin)-due)
		}
	})
	return slices.Concat(out...)
}

func hopQuantile(l []time.Duration, q float64) float64 {
	slices.Sort(l)
	return float64(l[int(q*float64(len(l)-1))]) / 1e3
}

func middle(l []float64) float64 {
	slices.Sort(l)
	return l[len(l)/2]
}

// BenchmarkHop is what the gateway adds to a call, function and gateway in
// processes of their own: the median of interleaved rounds, µs and ratios to
// direct calls in the same round. Run it with -benchtime 9x (rounds).
func BenchmarkHop(b *testing.B) {
	function, _ := hopStart(b, "function")
	gate, pid := hopStart(b, "gateway "+function)
	for c := newCaller(b, gate, "/function/hi"); c.call() != nil; c = newCaller(b, gate, "/function/hi") {
		runtime.Gosched() // it is not deployed yet
	}
	rounds := func(b *testing.B, n int, round func(cs []*caller) float64) (direct, through []float64) {
		d, g := callers(b, n, function, "/"), callers(b, n, gate, "/function/hi")
		closed(b, d, 200*time.Millisecond)
		closed(b, g, 200*time.Millisecond)
		for b.Loop() {
			direct = append(direct, round(d))
			through = append(through, round(g))
		}
		return direct, through
	}
	b.Run("c=1", func(b *testing.B) {
		d, g := rounds(b, 1, func(cs []*caller) float64 {
			l := make([]time.Duration, 3000)
			for i := range l {
				at := time.Now()
				if err := cs[0].call(); err != nil {
					b.Fatal(err)
				}
				l[i] = time.Since(at)
			}
			return hopQuantile(l, 0.5)
		})
		b.ReportMetric(middle(d), "direct-µs")
		b.ReportMetric(middle(g), "through-µs")
		b.ReportMetric(middle(g)-middle(d), "added-µs")
	})
	saturation := 0.0
	b.Run("c=32", func(b *testing.B) {
		calls, cpu := 0.0, hopCPU(b, pid)
		d, g := rounds(b, 32, func(cs []*caller) float64 {
			n := closed(b, cs, time.Second)
			if bytes.Contains(cs[0].request, []byte("/function/")) {
				calls += n
			}
			return n
		})
		b.ReportMetric(float64((hopCPU(b, pid)-cpu).Microseconds())/calls, "gateway-cpu-µs/call")
		saturation = middle(g)
		b.ReportMetric(middle(d), "direct/s")
		b.ReportMetric(middle(g), "through/s")
		b.ReportMetric(middle(g)/middle(d), "ratio")
	})
	b.Run("open", func(b *testing.B) {
		d, g := rounds(b, 32, func(cs []*caller) float64 {
			return hopQuantile(open(b, cs, 0.3*saturation, time.Second), 0.99)
		})
		b.ReportMetric(middle(d), "direct-p99-µs")
		b.ReportMetric(middle(g), "through-p99-µs")
		b.ReportMetric(middle(g)/middle(d), "ratio")
	})
}
