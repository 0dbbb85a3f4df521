package fast

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

// times collects samples; report gives their median and 90th percentile.
type times struct {
	mu sync.Mutex
	d  []time.Duration
}

func (t *times) add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.d = append(t.d, d)
}

func (t *times) report(b *testing.B, name string) {
	b.Helper()
	slices.Sort(t.d)
	if len(t.d) == 0 {
		return
	}
	ms := func(i int) float64 { return float64(t.d[i].Microseconds()) / 1000 }
	b.ReportMetric(ms(len(t.d)/2), name+"-p50-ms")
	b.ReportMetric(ms(len(t.d)*9/10), name+"-p90-ms")
}

// answer asks a server that listens and waits for the first byte.
func answer(b testing.TB, ip string) {
	b.Helper()
	c, err := net.DialTimeout("tcp", netip.AddrPortFrom(netip.MustParseAddr(ip), 8080).String(), 5*time.Second)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if _, err = c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if err != nil {
		b.Fatal(err)
	}
}

// listening waits as the runtime does, for a namespace that is not a pod's.
func (n *node) listening(b testing.TB, s *slot) {
	b.Helper()
	ports, err := network.NewPorts(s.ns)
	if err != nil {
		b.Fatal(err)
	}
	defer ports.Close()
	w := &waiter{ports: ports, port: 8080, since: time.Now(), done: make(chan error, 1)}
	if err := errors.Join(n.watcher.add(w), <-w.done); err != nil {
		b.Fatal(err)
	}
}

// cycle is a cold start to the first answer, and the removal.
func (n *node) cycle(b testing.TB, name string, sandbox, container, first, whole *times) {
	b.Helper()
	begin := time.Now()
	sb, err := n.StartSandbox(b.Context(), runtime.SandboxSpec{UID: types.UID("uid-" + name), Name: name, Namespace: "default", Hostname: name})
	if err != nil {
		b.Fatal(err)
	}
	at := time.Now()
	sandbox.add(at.Sub(begin))
	s := n.spec(sb, "serve")
	s.Resources = runtime.Resources{CPUShares: 100, Memory: 128 << 20, Pids: 1024}
	s.Security = runtime.Security{User: new(int64(1000))}
	c, err := n.StartContainer(b.Context(), s)
	if err != nil {
		b.Fatal(err)
	}
	container.add(time.Since(at))
	if err := n.Listening(b.Context(), c.ID, 8080); err != nil {
		b.Fatal(err)
	}
	answer(b, sb.IP)
	first.add(time.Since(begin))
	if err := n.RemoveSandbox(b.Context(), sb.ID); err != nil {
		b.Fatal(err)
	}
	whole.add(time.Since(begin))
}

// BenchmarkColdStart is a sandbox, a container in it and its first answer, one
// at a time with a full pool, beside `runc run` of the same program with the
// same spec, filter and limits and a pod link of its own, in turns.
func BenchmarkColdStart(b *testing.B) {
	n := newNode(b)
	bundle := filepath.Join(n.dir, "bundle")
	_, probe, _ := build(b)
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs", "bin"), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "rootfs", "bin", "probe"), probe, 0o755); err != nil {
		b.Fatal(err)
	}
	var sandbox, container, first, whole, baseline times
	i := 0
	for b.Loop() {
		i++
		n.parked()
		n.cycle(b, fmt.Sprintf("b%d", i), &sandbox, &container, &first, &whole)
		if i%3 == 0 {
			baseline.add(n.runcRun(b, bundle, fmt.Sprintf("r%d", i)))
		}
	}
	sandbox.report(b, "sandbox")
	container.report(b, "container")
	first.report(b, "cold")
	whole.report(b, "cycle")
	baseline.report(b, "runc")
}

// BenchmarkParallel keeps so many cold starts going at a time, with what the
// pool can do: at this rate it is used up and refilled all the time.
func BenchmarkParallel(b *testing.B) {
	for _, workers := range []int{1, 8, 32} {
		b.Run(strconv.Itoa(workers), func(b *testing.B) {
			n := newNode(b)
			n.parked()
			var sandbox, container, first, whole times
			next := make(chan int)
			var wg sync.WaitGroup
			cpu := n.cpu(b)
			begin := time.Now()
			for range workers {
				wg.Go(func() {
					for i := range next {
						n.cycle(b, fmt.Sprintf("b%d", i), &sandbox, &container, &first, &whole)
					}
				})
			}
			count := 0
			for b.Loop() {
				count++
				next <- count
			}
			close(next)
			wg.Wait()
			n.pool.Wait()
			took := time.Since(begin)
			b.ReportMetric(float64(count)/took.Seconds(), "starts/s")
			b.ReportMetric((n.cpu(b)-cpu).Seconds()*1000/float64(count), "cpu-ms/cycle")
			sandbox.report(b, "sandbox")
			container.report(b, "container")
			first.report(b, "cold")
		})
	}
}

// cpu is the time of this process, of the launcher, and of its children that
// have ended: all of a cycle but what the kernel does by itself.
func (n *node) cpu(b testing.TB) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	n.mu.Lock()
	pid := n.launcher
	n.mu.Unlock()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	ticks := 0
	for _, f := range strings.Fields(rest)[11:15] { // own and children's, user and system
		v, _ := strconv.Atoi(f)
		ticks += v
	}
	return time.Duration(u.Utime.Nano()+u.Stime.Nano()) + time.Duration(ticks)*10*time.Millisecond
}

// runcRun measures `runc run` to the first answer, with a parked sandbox's
// network.
func (n *node) runcRun(b *testing.B, bundle, name string) time.Duration {
	b.Helper()
	n.parked()
	begin := time.Now()
	sl, _, err := n.pool.Take(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer n.pool.Give(sl, true)
	made, err := spec.Container(spec.Input{
		Sandbox: name, Cgroup: n.config.CgroupParent + "/runc/" + name, Shm: bundle, Files: bundle, Privilege: n.config.Privilege,
		Spec: runtime.ContainerSpec{
			Command: []string{"/bin/probe", "serve"}, Security: runtime.Security{User: new(int64(1000))},
			Resources: runtime.Resources{CPUShares: 100, Memory: 128 << 20, Pids: 1024},
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	if made.Linux.Seccomp, err = n.profiles.Of(made); err != nil {
		b.Fatal(err)
	}
	made.Mounts = slices.DeleteFunc(made.Mounts, func(m specs.Mount) bool { return m.Type == "bind" })
	made.Linux.Namespaces = append(namespaces(n.Runtime.cgroups.V2), specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: sl.netns()})
	text, err := json.Marshal(made)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
		b.Fatal(err)
	}
	root := filepath.Join(n.dir, "runc")
	cmd := exec.CommandContext(b.Context(), "runc", "--root", root, "run", "--detach", "--bundle", bundle, name)
	if err := cmd.Run(); err != nil {
		b.Fatalf("runc run: %v", err)
	}
	n.listening(b, sl)
	answer(b, sl.ip.String())
	took := time.Since(begin)
	if out, err := exec.CommandContext(b.Context(), "runc", "--root", root, "delete", "--force", name).CombinedOutput(); err != nil {
		b.Fatalf("runc delete: %v: %s", err, out)
	}
	return took
}

// BenchmarkSlot is what the pool does: making a parked sandbox, recycling it,
// taking it apart.
func BenchmarkSlot(b *testing.B) {
	n := newNode(b)
	var made, recycled, destroyed times
	for b.Loop() {
		begin := time.Now()
		s, err := n.makeSlot(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		made.add(time.Since(begin))
		begin = time.Now()
		if _, err := n.recycleSlot(s); err != nil {
			b.Fatal(err)
		}
		recycled.add(time.Since(begin))
		begin = time.Now()
		n.destroySlot(s)
		destroyed.add(time.Since(begin))
	}
	made.report(b, "make")
	recycled.report(b, "recycle")
	destroyed.report(b, "destroy")
}
