package nodeagent_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime/fake"
)

// An ephemeral container comes to a pod that runs, has its turn once, and
// changes nothing that the pod is.
func TestEphemeralContainer(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.pod("p")
		r.after(time.Second)
		next := r.get("p").DeepCopy()
		next.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
			TargetContainerName:      "main",
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "img", Stdin: true, TTY: true},
		}}
		if _, err := api.Update(t.Context(), api.Objects(r.o), next, api.UpdateOptions{Subresource: "ephemeralcontainers"}); err != nil {
			t.Fatal(err)
		}
		r.after(time.Second)
		state := func() corev1.ContainerState {
			t.Helper()
			got := r.get("p").Status.EphemeralContainerStatuses
			if len(got) != 1 || got[0].Name != "debug" {
				t.Fatalf("ephemeral containers %+v", got)
			}
			return got[0].State
		}
		if state().Running == nil {
			t.Fatalf("it is %+v, want it to run", state())
		}
		id := func(s corev1.ContainerStatus) string { return strings.TrimPrefix(s.ContainerID, "containerd://") }
		st := r.get("p").Status
		spec := r.engine.Spec(id(st.EphemeralContainerStatuses[0]))
		if spec.Target != id(st.ContainerStatuses[0]) || !spec.Stdin || !spec.TTY {
			t.Errorf("it was started as %+v", spec)
		}
		r.want("p", "Running ready=true main:running/0")

		r.engine.Kill(id(st.EphemeralContainerStatuses[0]), fake.Run{Code: 3})
		r.after(time.Minute)
		if got := state().Terminated; got == nil || got.ExitCode != 3 {
			t.Errorf("it is %+v, want it to have ended with 3", state())
		}
		r.want("p", "Running ready=true main:running/0")

		r.stop() // the next agent does not give it another turn
		r.start()
		r.after(time.Minute)
		if state().Terminated == nil {
			t.Errorf("after a restart of the agent it is %+v", state())
		}
		r.del("p")
		r.after(time.Second)
		if !r.gone("p") {
			t.Error("the pod can't be deleted")
		}
	})
}

// One that runs is stopped with its pod.
func TestEphemeralContainerEnds(t *testing.T) {
	node(t, func(r *rig) {
		t := r.t
		r.pod("p")
		r.after(time.Second)
		next := r.get("p").DeepCopy()
		next.Spec.EphemeralContainers = []corev1.EphemeralContainer{
			{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "img"}},
		}
		if _, err := api.Update(t.Context(), api.Objects(r.o), next, api.UpdateOptions{Subresource: "ephemeralcontainers"}); err != nil {
			t.Fatal(err)
		}
		r.after(time.Second)
		r.del("p")
		r.after(time.Second)
		if !r.gone("p") {
			t.Errorf("the pod can't be deleted: %v", r.engine.Calls())
		}
	})
}
