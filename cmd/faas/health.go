package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/podsnap/podsnap/internal/openfaas"
)

// state says whether a function can be called and, if not, why.
func state(f *openfaas.FunctionStatus) string {
	why := f.Reason
	if why != "" && f.Message != "" {
		why += ": " + f.Message
	}
	switch {
	case f.AvailableReplicas > 0 && why != "":
		return "ready, but a replica does not come up: " + why
	case f.AvailableReplicas > 0:
		return "ready"
	case f.Replicas == 0:
		return "scaled to zero: the next call starts it"
	case why != "":
		return "not ready: " + why
	}
	return "not ready"
}

// oomKilled is the reason of a container's end that the kernel made for want
// of memory.
const oomKilled = "OOMKilled"

// starting is the reason while nothing is wrong and the first replica is on its
// way.
const starting = "NoReplicaAvailable"

// remedy is what a person can do about a function that has replicas which don't
// come up, or whose last was killed; "" when nothing is wrong.
func remedy(f *openfaas.FunctionStatus, ns string) string {
	logs := "`faas logs " + f.Name + inNamespace(ns) + " --tail=false`"
	killed := f.LastTermination != nil && f.LastTermination.Reason == oomKilled
	switch f.Reason {
	case "":
		switch {
		case killed:
			return "it ran out of memory: raise its limits.memory in stack.yaml, or deploy with --memory-limit"
		case f.Replicas == 0 || f.AvailableReplicas > 0:
			return ""
		}
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull":
		return fmt.Sprintf("check the image's name (%s) and that it is where the name says: `faas push` sends what `faas build` made", f.Image)
	case "CrashLoopBackOff":
		if killed {
			return "it runs out of memory: raise its limits.memory in stack.yaml, or deploy with --memory-limit"
		}
		return logs + " shows what it wrote before it ended"
	case "Unschedulable":
		return "no node takes it: lower its requests, change its constraints, or make room with `faas scale`"
	case "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun":
		return "check its process, secrets and environment, and deploy it again"
	case starting:
		return "wait: it is being started; `faas ready " + f.Name + inNamespace(ns) + "` returns when it is"
	}
	return "see " + logs + " and `kubectl get events -n " + orNamespace(ns) + "`"
}

// inNamespace is the flag for a namespace that is not the default.
func inNamespace(ns string) string {
	if ns == "" || ns == openfaas.DefaultNamespace {
		return ""
	}
	return " -n " + ns
}

// restarts says how often containers were started again, and how the last one
// ended; "" when none has.
func restarts(f *openfaas.FunctionStatus) string {
	if f.Restarts == 0 && f.LastTermination == nil {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d", f.Restarts)
	t := f.LastTermination
	if t == nil {
		return b.String()
	}
	fmt.Fprintf(&b, ", last: %s", t.Reason)
	if t.Reason == oomKilled && f.Limits != nil && f.Limits.Memory != "" {
		fmt.Fprintf(&b, " (memory limit %s)", f.Limits.Memory)
	}
	fmt.Fprintf(&b, ", exit %d", t.ExitCode)
	if !t.Time.IsZero() {
		fmt.Fprintf(&b, ", at %s", t.Time.Format(time.RFC3339))
	}
	return b.String()
}
