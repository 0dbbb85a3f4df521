// Package conformance holds a container runtime to the isolation that this
// platform promises, and two runtimes to the same. A probe program tells from
// inside of containers what it finds there (package probe beside this one, one
// key=value a line: see Facts), the suite adds what it sees of them from
// outside, compares each fact with what is expected, and Diff compares those
// of two runtimes one by one.
//
// What is expected is what containerd and Kubernetes do for a plain pod, with
// the profile of Docker for system calls; and less where a function needs less.
package conformance

import (
	"net/netip"
	"sync"
	"testing"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// Node is a runtime with what the suite needs to know of it.
type Node struct {
	Runtime   runtime.Runtime
	Images    runtime.Images
	Dir       string                     // on the host, absolute: logs, volumes
	Gateway   netip.Addr                 // the host's address in the pod network
	Single    bool                       // a sandbox holds one container at a time, which has its namespaces; none of the host's, nothing privileged
	Processes []int                      // what the runtime consists of besides this process; Leak counts their files
	Adapt     func(*runtime.SandboxSpec) // has sandboxes made by the runtime in question; nil does nothing
}

// Report is what was found, by case.
type Report map[string]Facts

// Run runs the suite. All that it starts it removes.
func Run(t *testing.T, n Node) Report {
	r := newRig(t, n)
	report := r.look()
	r.attempt()
	return report
}

// Look is the part of Run that makes the report: the facts, held against what
// is wanted.
func Look(t *testing.T, n Node) Report { return newRig(t, n).look() }

func (r *rig) look() Report {
	report := Report{}
	var mu sync.Mutex
	r.t.Run("facts", func(t *testing.T) {
		for _, c := range cases() {
			if r.Single && (c.want.hostNamespaces || c.want.privileged) {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				o := r.with(t).check(c)
				mu.Lock()
				defer mu.Unlock()
				report[c.name], report[c.name+", exec"], report[c.name+", outside"] = o.inside, o.exec, o.outside
			})
		}
	})
	return report
}

func (r *rig) attempt() {
	r.t.Run("attempts", func(t *testing.T) {
		for name, attempt := range attempts() {
			if r.Single && name == "the pause process" {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				attempt(r.with(t))
			})
		}
	})
}
