package engine

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

// times collects samples; report gives their median and 90th percentile.
type times []time.Duration

func (d times) report(b *testing.B, name string) {
	slices.Sort(d)
	if len(d) == 0 {
		return
	}
	ms := func(i int) float64 { return float64(d[i].Microseconds()) / 1000 }
	b.ReportMetric(ms(len(d)/2), name+"-p50-ms")
	b.ReportMetric(ms(len(d)*9/10), name+"-p90-ms")
}

// BenchmarkColdStart is a sandbox, a container in it and its first answer,
// beside `runc run` of the same program with the same spec and a pod link of
// its own, in turns. Removal is not counted.
func BenchmarkColdStart(b *testing.B) {
	n := newNode(b)
	_, probe := build(b)
	bundle := filepath.Join(n.dir, "bundle")
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs", "bin"), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "rootfs", "bin", "probe"), probe, 0o755); err != nil {
		b.Fatal(err)
	}
	var sandbox, container, whole, baseline times
	i := 0
	for b.Loop() {
		i++
		begin := time.Now()
		name := fmt.Sprintf("b%d", i)
		sb, err := n.StartSandbox(b.Context(), runtime.SandboxSpec{UID: types.UID("uid-" + name), Name: name, Namespace: "default", Hostname: name})
		if err != nil {
			b.Fatal(err)
		}
		sandbox = append(sandbox, time.Since(begin))
		n.start(n.spec(sb, "serve"))
		container = append(container, time.Since(begin)-sandbox[len(sandbox)-1])
		if _, err := get(sb.IP, "/"); err != nil {
			b.Fatal(err)
		}
		whole = append(whole, time.Since(begin))
		if err := n.RemoveSandbox(b.Context(), sb.ID); err != nil {
			b.Fatal(err)
		}
		baseline = append(baseline, n.runcRun(b, bundle, name))
	}
	sandbox.report(b, "sandbox")
	container.report(b, "container")
	whole.report(b, "cold")
	baseline.report(b, "runc")
}

// runcRun measures `runc run` to the first answer.
func (n *node) runcRun(b *testing.B, bundle, name string) time.Duration {
	b.Helper()
	begin := time.Now()
	ns, err := network.NewNamespace()
	if err != nil {
		b.Fatal(err)
	}
	defer ns.Close()
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd())
	id := newID()
	ip, err := n.config.Network.Attach(b.Context(), id, path)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = n.config.Network.Detach(b.Context(), id) }()
	made, err := spec.Container(spec.Input{
		Sandbox: id, Cgroup: n.cgroups.Of("runc", id), Shm: bundle, Files: bundle, CgroupV2: n.cgroups.V2, Privilege: n.privilege,
		Spec: runtime.ContainerSpec{Command: []string{"/bin/probe", "serve"}, Security: runtime.Security{User: new(int64(1000))}},
	})
	if err != nil {
		b.Fatal(err)
	}
	if made.Linux.Seccomp, err = n.profiles.Of(made); err != nil {
		b.Fatal(err)
	}
	made.Mounts = slices.DeleteFunc(made.Mounts, func(m specs.Mount) bool { return m.Type == "bind" })
	for i := range made.Linux.Namespaces {
		made.Linux.Namespaces[i].Path = ""
		if made.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			made.Linux.Namespaces[i].Path = path
		}
	}
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
	if _, err := get(ip.String(), "/"); err != nil {
		b.Fatal(err)
	}
	took := time.Since(begin)
	if out, err := exec.CommandContext(b.Context(), "runc", "--root", root, "delete", "--force", name).CombinedOutput(); err != nil {
		b.Fatalf("runc delete: %v: %s", err, out)
	}
	return took
}

// BenchmarkMetadata is the least that containerd asks of any runtime that is a
// shim of it: a snapshot and a container, written and removed again, without
// any task. What a shim of our own would cost comes on top.
func BenchmarkMetadata(b *testing.B) {
	n := newNode(b)
	ctx := n.ns(b.Context())
	img, err := n.localImage(ctx, probeRef)
	if err != nil {
		b.Fatal(err)
	}
	made, err := spec.Container(spec.Input{Shm: "/x", Files: "/x", Privilege: n.privilege, Spec: runtime.ContainerSpec{Command: []string{"/bin/probe"}}})
	if err != nil {
		b.Fatal(err)
	}
	if made.Linux.Seccomp, err = n.profiles.Of(made); err != nil {
		b.Fatal(err)
	}
	var create, remove times
	cpu := cpuOf(b, n.daemon.Process.Pid)
	count := 0
	for b.Loop() {
		count++
		id, begin := newID(), time.Now()
		if _, err := n.snapshots.Prepare(ctx, id, img.chainID, snapshots.WithLabels(map[string]string{gcRoot: time.Now().UTC().Format(time.RFC3339)})); err != nil {
			b.Fatal(err)
		}
		if err := n.createContainer(ctx, id, record{Container: &runtime.Container{ID: id}}, nil, made, id, probeRef); err != nil {
			b.Fatal(err)
		}
		create = append(create, time.Since(begin))
		begin = time.Now()
		if err := n.client.ContainerService().Delete(ctx, id); err != nil {
			b.Fatal(err)
		}
		if err := n.snapshots.Remove(ctx, id); err != nil {
			b.Fatal(err)
		}
		remove = append(remove, time.Since(begin))
	}
	b.ReportMetric((cpuOf(b, n.daemon.Process.Pid)-cpu).Seconds()*1000/float64(count), "containerd-cpu-ms/op")
	create.report(b, "create")
	remove.report(b, "remove")
}

// cpuOf is the processor time of a process.
func cpuOf(b *testing.B, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	ticks := 0
	for _, f := range strings.Fields(rest)[11:13] {
		v, _ := strconv.Atoi(f)
		ticks += v
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
