package pod

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// LogPath is the file of one instance's log below dir.
func LogPath(dir string, p *corev1.Pod, container string, attempt int) string {
	return filepath.Join(logDir(dir, p), container, strconv.Itoa(attempt)+".log")
}

func logDir(dir string, p *corev1.Pod) string {
	return filepath.Join(dir, strings.Join([]string{p.Namespace, p.Name, string(p.UID)}, "_"))
}

// forget removes the log of an instance, rotated files included: that of the
// newest one and of the one before are enough.
func forget(dir string, p *corev1.Pod, container string, attempt int) {
	files, _ := filepath.Glob(LogPath(dir, p, container, attempt) + "*") // its pattern is ours
	for _, f := range files {
		os.Remove(f) // one that stays is removed with the pod
	}
}

// LogOwner is the pod whose logs a folder of that name holds.
func LogOwner(folder string) types.UID {
	return types.UID(folder[strings.LastIndexByte(folder, '_')+1:])
}

// Logged is the instance of a container whose log is asked for: the newest one
// that has run, or the one before. An empty name is the pod's first container.
func Logged(p *corev1.Pod, container string, previous bool) (name string, attempt int, err error) {
	if container == "" && len(p.Spec.Containers) > 0 {
		container = p.Spec.Containers[0].Name
	}
	if find(p, container) == nil {
		return "", 0, apierrors.NewBadRequest(fmt.Sprintf("container %q is not valid for pod %q", container, p.Name))
	}
	cs := statusOf(p, container)
	switch {
	case previous && (!ran(cs) || cs.RestartCount == 0):
		return "", 0, apierrors.NewBadRequest(fmt.Sprintf("previous terminated container %q in pod %q not found", container, p.Name))
	case !ran(cs):
		reason := "ContainerCreating"
		if cs != nil && cs.State.Waiting != nil {
			reason = cs.State.Waiting.Reason
		}
		return "", 0, apierrors.NewBadRequest(fmt.Sprintf("container %q in pod %q is waiting to start: %s", container, p.Name, reason))
	case previous:
		return container, int(cs.RestartCount) - 1, nil
	}
	return container, int(cs.RestartCount), nil
}

func ran(cs *corev1.ContainerStatus) bool {
	return cs != nil && (cs.ContainerID != "" || cs.LastTerminationState.Terminated != nil || cs.State.Terminated != nil)
}

// Ended tells whether an instance of a container does not run any more.
func Ended(p *corev1.Pod, container string, attempt int) bool {
	cs := statusOf(p, container)
	return cs == nil || int(cs.RestartCount) > attempt || cs.State.Running == nil
}

// Renewed tells whether a newer instance of a container runs or has run.
func Renewed(p *corev1.Pod, container string, attempt int) bool {
	cs := statusOf(p, container)
	return ran(cs) && int(cs.RestartCount) > attempt
}

// Final tells whether a container has ended and will not be started again.
func Final(p *corev1.Pod, container string) bool {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return true
	}
	cs := statusOf(p, container)
	if cs == nil || cs.State.Terminated == nil {
		return false
	}
	for c, init := range all(&p.Spec) {
		if c.Name == container {
			return !again(p.Spec.RestartPolicy, c, init, int(cs.State.Terminated.ExitCode))
		}
	}
	return true // an ephemeral one
}

// Grace is the time that a pod has between SIGTERM and SIGKILL.
func Grace(p *corev1.Pod) time.Duration { return graceOf(p) }
