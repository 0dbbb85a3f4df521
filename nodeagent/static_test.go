package nodeagent_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/nodeagent/runtime/fake"
)

// statics is nodeagent.Config's.
func (r *rig) statics(ctx context.Context, set func([]*corev1.Pod)) error {
	set(r.static)
	for {
		select {
		case <-ctx.Done():
			return nil
		case r.static = <-r.files:
			set(r.static)
		}
	}
}

// file is a static pod as it is read.
func file(name, uid string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid), Annotations: map[string]string{corev1.MirrorPodAnnotationKey: uid}},
		Spec: corev1.PodSpec{
			NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: new(int64(5)),
			Containers: []corev1.Container{{Name: "main", Image: "img"}},
		},
	}
	p.Status.Phase = corev1.PodPending
	return p
}

// withFiles is node for one that has static pods from its start.
func withFiles(t *testing.T, first []*corev1.Pod, test func(r *rig)) {
	t.Helper()
	node(t, func(r *rig) {
		r.stop()
		r.files, r.static = make(chan []*corev1.Pod), first
		r.start()
		test(r)
	})
}

func (r *rig) set(pods ...*corev1.Pod) {
	r.files <- pods
	synctest.Wait()
}

func (r *rig) running() (uids []string) {
	r.t.Helper()
	boxes, err := r.engine.List(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, b := range boxes {
		uids = append(uids, string(b.UID))
	}
	slices.Sort(uids)
	return uids
}

func (r *rig) wantRunning(uids ...string) {
	r.t.Helper()
	if got := r.running(); !slices.Equal(got, uids) {
		r.t.Errorf("sandboxes of %q, want %q", got, uids)
	}
}

func TestStaticIsShown(t *testing.T) {
	withFiles(t, []*corev1.Pod{file("web-n1", "h1")}, func(r *rig) {
		t := r.t
		r.after(2 * time.Second)
		r.want("web-n1", "Running ready=true main:running/0")
		m := r.get("web-n1")
		n, err := api.Get[*corev1.Node](t.Context(), r.o, api.Nodes, "", "n1")
		if err != nil {
			t.Fatal(err)
		}
		if o := metav1.GetControllerOf(m); o == nil || o.Kind != "Node" || o.UID != n.UID {
			t.Errorf("its owner is %+v", o)
		}
		if m.UID == "h1" || m.Annotations[corev1.MirrorPodAnnotationKey] != "h1" || m.Status.PodIP == "" {
			t.Errorf("the mirror is %+v", m)
		}
		r.o.count()
		r.after(30 * time.Second)
		if n := r.o.count(); n > 33 { // the heartbeats
			t.Errorf("%d writes in 30 s though nothing happens", n)
		}
		if logs, err := r.agent.Logs(t.Context(), m.UID, api.LogOptions{Tail: -1}); err != nil {
			t.Errorf("logs by the mirror: %v", err)
		} else {
			logs.Close()
		}
		if st, err := r.agent.Stats(t.Context()); err != nil || len(st.Pods) != 1 || st.Pods[0].UID != m.UID {
			t.Errorf("use of %+v, want the mirror's: %v", st.Pods, err)
		}
	})
}

func TestStaticStandsDeletion(t *testing.T) {
	withFiles(t, []*corev1.Pod{file("web-n1", "h1")}, func(r *rig) {
		t := r.t
		r.after(2 * time.Second)
		was, container := r.get("web-n1"), r.get("web-n1").Status.ContainerStatuses[0].ContainerID
		for _, o := range []api.DeleteOptions{{}, {GracePeriodSeconds: new(int64)}} {
			if _, err := r.o.Delete(t.Context(), api.Pods, "default", "web-n1", o); err != nil {
				t.Fatal(err)
			}
			r.after(2 * time.Second)
			r.want("web-n1", "Running ready=true main:running/0")
			now := r.get("web-n1")
			if now.UID == was.UID || now.DeletionTimestamp != nil {
				t.Error("the mirror was not made anew")
			}
			if got := now.Status.ContainerStatuses[0].ContainerID; got != container {
				t.Errorf("the container is %s, was %s: a deletion ended it", got, container)
			}
			was = now
		}
	})
}

func TestStaticChangesAndGoes(t *testing.T) {
	withFiles(t, nil, func(r *rig) {
		t := r.t
		r.engine.Script("img", fake.Script{TermDelay: 3 * time.Second})
		r.set(file("web-n1", "h1"))
		r.after(time.Second)
		r.wantRunning("h1")
		r.set(file("web-n1", "h2"))
		r.after(time.Second)
		r.wantRunning("h1") // it has its grace period, and the next one waits
		r.after(6 * time.Second)
		r.wantRunning("h2")
		if got := r.get("web-n1").Annotations[corev1.MirrorPodAnnotationKey]; got != "h2" {
			t.Errorf("the mirror shows %s", got)
		}
		// Taken away and put back before it has ended.
		r.set()
		r.after(time.Second)
		r.set(file("web-n1", "h2"))
		r.after(10 * time.Second)
		r.wantRunning("h2")
		r.want("web-n1", "Running ready=true main:running/0")
		r.set()
		r.after(10 * time.Second)
		r.wantRunning()
		if !r.gone("web-n1") {
			t.Error("the mirror is still there")
		}
	})
}

func TestStaticRunsWithoutTheAPI(t *testing.T) {
	withFiles(t, []*corev1.Pod{file("web-n1", "h1")}, func(r *rig) {
		t := r.t
		r.after(2 * time.Second)
		container := r.get("web-n1").Status.ContainerStatuses[0].ContainerID
		r.stop()
		r.o.set(true)
		r.static = append(r.static, file("new-n1", "h3")) // while nobody looked
		r.start()
		r.after(5 * time.Second)
		r.wantRunning("h1", "h3")
		boxes, _ := r.engine.List(t.Context())
		for _, b := range boxes {
			if b.UID == "h1" && "containerd://"+b.Containers[0].ID != container {
				t.Error("the pod was started anew: it was to be adopted")
			}
			r.engine.Kill(b.Containers[0].ID, fake.Run{Code: 1})
		}
		r.after(30 * time.Second)
		boxes, _ = r.engine.List(t.Context())
		for _, b := range boxes {
			if n := len(b.Containers); b.Containers[n-1].Attempt != 1 {
				t.Errorf("%s was not restarted while the API is away", b.Name)
			}
		}
		r.o.set(false)
		r.after(time.Minute)
		r.want("web-n1", "Running ready=true main:running/1")
		r.want("new-n1", "Running ready=true main:running/1")
	})
}

func TestStaticThatEndsStaysEnded(t *testing.T) {
	withFiles(t, nil, func(r *rig) {
		t := r.t
		r.engine.Script("img", fake.Script{Runs: []fake.Run{{For: time.Second}}})
		once := file("once-n1", "h1")
		once.Spec.RestartPolicy = corev1.RestartPolicyNever
		r.set(once)
		r.after(5 * time.Second)
		r.want("once-n1", "Succeeded ready=false main:Completed(0)/0")
		r.del("once-n1")
		r.after(5 * time.Second)
		r.want("once-n1", "Succeeded ready=false main:Completed(0)/0")
		if got := r.running(); len(got) > 0 {
			t.Errorf("sandboxes %v: it ran again", got)
		}
	})
}

// TestMirrorOfNothing: what claims to show a static pod that the node does not have is
// no pod that it runs.
func TestMirrorOfNothing(t *testing.T) {
	withFiles(t, []*corev1.Pod{file("web-n1", "h1")}, func(r *rig) {
		t := r.t
		r.after(2 * time.Second)
		forged := file("other", "h1")
		forged.UID = ""
		m, err := api.Create(t.Context(), api.Objects(r.o), forged)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.agent.Logs(t.Context(), m.UID, api.LogOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("by another pod's annotation a static pod is reached: %v", err)
		}
		r.after(2 * time.Second)
		if !r.gone("other") {
			t.Error("a mirror of nothing stays")
		}
		r.wantRunning("h1")
	})
}
