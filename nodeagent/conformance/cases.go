package conformance

import (
	"fmt"
	"testing"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// observed is one container as seen from inside, through Exec, and from
// outside.
type observed struct {
	inside, exec, outside Facts
	sandbox               runtime.Sandbox
	container             runtime.Container
	spec                  runtime.ContainerSpec
	again                 []string // the areas that Exec's probe told of
}

// aCase is a container of a certain kind and what is expected of it.
type aCase struct {
	name    string
	areas   []string // of the probe; nil is all
	sandbox runtime.SandboxSpec
	change  func(*runtime.ContainerSpec)
	want    wanted
}

// wanted is what differs between the cases.
type wanted struct {
	uid, gid, groups string
	caps             uint64 // effective, permitted and bounding
	escalation       bool   // no_new_privs is not set
	unconfined       bool   // no system call filter
	privileged       bool
	hostNamespaces   bool
	readOnly         bool
	oomScore         int
	limits           map[string]string // files of the cgroup; version 1 and 2
}

// The capabilities of containers in Docker and containerd.
const usualCaps = 0xa80425fb

// observe runs a case: the probe as the container's process, then through
// Exec beside it.
func (r *rig) observe(c aCase) observed {
	r.t.Helper()
	return r.observeIn(r.sandbox(c.sandbox), c)
}

func (r *rig) observeIn(sb runtime.Sandbox, c aCase) observed {
	r.t.Helper()
	o := observed{sandbox: sb}
	areas := c.areas
	if areas == nil {
		areas = []string{"all"}
	}
	o.again = areas // through Exec: what a process has of its own, not what the container has
	if c.areas == nil {
		o.again = []string{"process", "mounts", "devices", "calls", "numbers"}
	}
	o.spec = r.spec(o.sandbox, append([]string{"hold"}, areas...)...)
	if c.change != nil {
		c.change(&o.spec)
	}
	o.container = r.start(o.spec)
	o.inside = r.facts(o.spec.LogPath)
	var err error
	if o.exec, err = parse(r.exec(o.container, append([]string{"/bin/probe", "facts"}, o.again...)...)); err != nil {
		r.t.Fatal(err)
	}
	o.outside = lookFromOutside(r.t, o.container.Pid, c.areas == nil)
	return o
}

// check runs a case and compares it with what is wanted.
func (r *rig) check(c aCase) observed {
	r.t.Helper()
	o := r.observe(c)
	for what, f := range map[string]Facts{"entry": o.inside, "exec": o.exec} {
		r.t.Run(what, func(t *testing.T) {
			x := expectation{t: t, f: f, o: o, c: c, host: r.host, exec: what == "exec"}
			x.all()
		})
	}
	r.t.Run("terminal", func(t *testing.T) { r.with(t).terminal(c, o) })
	r.t.Run("outside", func(t *testing.T) {
		checkOutside(t, c, o, r.Single)
		switch {
		case c.areas != nil:
		case c.want.caps == 0:
			checkFilter(t, "none", o.outside)
		default:
			checkFilter(t, "usual", o.outside)
		}
	})
	return o
}

// few are the areas that depend on how a container is set up and not on its
// namespaces.
func few() []string { return []string{"process", "mounts", "devices", "calls"} }

func cases() []aCase {
	id := func(n int64) *int64 { return &n }
	security := func(s runtime.Security) func(*runtime.ContainerSpec) {
		return func(c *runtime.ContainerSpec) { c.Security = s }
	}
	return []aCase{
		{
			name: "function",
			change: func(s *runtime.ContainerSpec) {
				s.Resources = runtime.Resources{CPUShares: 512, CPUQuota: 50_000, Memory: 96 << 20, Pids: 77}
			},
			want: wanted{uid: "1000", gid: "2000", groups: "3000", oomScore: 900, limits: map[string]string{
				"memory.limit_in_bytes": fmt.Sprint(96 << 20), "memory.memsw.limit_in_bytes": fmt.Sprint(96 << 20),
				"cpu.shares": "512", "cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "pids.max": "77",
				"memory.max": fmt.Sprint(96 << 20), "memory.swap.max": "0", "cpu.max": "50000 100000", "cpu.weight": "20",
			}},
		},
		{
			name:   "plain pod as root",
			change: security(runtime.Security{User: id(0), DefaultCapabilities: true, AllowEscalation: true}),
			want:   wanted{uid: "0", gid: "0", groups: "3001", caps: usualCaps, escalation: true},
		},
		{
			name: "another user, capabilities added", areas: few(),
			change: security(runtime.Security{User: id(1234), Group: id(99), Supplemental: []int64{7, 5}, AddCapabilities: []string{"NET_BIND_SERVICE", "SYS_TIME"}}),
			want:   wanted{uid: "1234", gid: "99", groups: "5 7", caps: 1<<10 | 1<<25},
		},
		{
			name: "root without some capabilities", areas: few(),
			change: security(runtime.Security{User: id(0), DefaultCapabilities: true, DropCapabilities: []string{"NET_RAW", "MKNOD"}}),
			want:   wanted{uid: "0", gid: "0", groups: "3001", caps: usualCaps &^ (1<<13 | 1<<27)},
		},
		{
			name: "root without capabilities", areas: few(),
			change: security(runtime.Security{User: id(0), DefaultCapabilities: true, DropCapabilities: []string{"ALL"}, AllowEscalation: true}),
			want:   wanted{uid: "0", gid: "0", groups: "3001", escalation: true},
		},
		{
			name: "all capabilities", areas: few(),
			change: security(runtime.Security{User: id(0), AddCapabilities: []string{"ALL"}}),
			want:   wanted{uid: "0", gid: "0", groups: "3001", caps: ownCaps()},
		},
		{
			name: "read-only root", areas: []string{"process", "mounts", "paths"},
			change: security(runtime.Security{User: id(0), ReadOnlyRoot: true}),
			want:   wanted{uid: "0", gid: "0", groups: "3001", readOnly: true},
		},
		{
			name: "no filter", areas: []string{"process", "mounts"},
			change: security(runtime.Security{SeccompUnconfined: true}),
			want:   wanted{uid: "1000", gid: "2000", groups: "3000", unconfined: true},
		},
		{
			name: "privileged", areas: []string{"process", "mounts"},
			change: security(runtime.Security{User: id(0), Privileged: true}),
			want:   wanted{uid: "0", gid: "0", groups: "3001", caps: ownCaps(), escalation: true, unconfined: true, privileged: true},
		},
		{
			name: "host namespaces", areas: []string{"process", "mounts"},
			sandbox: runtime.SandboxSpec{HostNetwork: true, HostPID: true},
			want:    wanted{uid: "1000", gid: "2000", groups: "3000", hostNamespaces: true},
		},
	}
}
