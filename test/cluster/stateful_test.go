package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	"github.com/podsnap/podsnap/test/platform"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// lives is told by pods, ten times a second, that they run. It holds against them that
// a pod of a name is heard of again after another one of that name was.
type lives struct {
	URL string

	mu    sync.Mutex
	now   map[string]string    // by pod name: the life that was heard last
	over  map[string]bool      // lives after which another one of the name came
	heard map[string]time.Time // by life
	count map[string]int       // by pod name: lives that its disk has seen
	twice []string
}

// newLives listens on the client's host.
func newLives(t *testing.T, c *Cluster) *lives {
	t.Helper()
	l, err := c.Client.Listen(c.Client.IP() + ":9000")
	if err != nil {
		t.Fatal(err)
	}
	w := &lives{URL: "http://" + l.Addr().String(), now: map[string]string{}, over: map[string]bool{}, heard: map[string]time.Time{}, count: map[string]int{}}
	s := &http.Server{Handler: w, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return w
}

// ServeHTTP implements http.Handler.
func (l *lives) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<10))
	said := strings.Fields(string(b))
	if err != nil || len(said) != 3 {
		return
	}
	name, life := said[0], said[1]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over[life] {
		l.twice = append(l.twice, fmt.Sprintf("%s lives as %s after %s has begun", name, life, l.now[name]))
		return
	}
	if was := l.now[name]; was != "" && was != life {
		l.over[was] = true
	}
	l.now[name], l.heard[life] = life, time.Now()
	l.count[name], _ = strconv.Atoi(said[2])
}

// of is a pod's present life, when that was heard of last, and how many there were.
func (l *lives) of(name string) (life string, at time.Time, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now[name], l.heard[l.now[name]], l.count[name]
}

// members is a StatefulSet of three pods with a claim each, which tell l that they live.
func members(l *lives) *appsv1.StatefulSet {
	labels := map[string]string{"app": "member"}
	s := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "member"}}
	s.Spec.Replicas, s.Spec.ServiceName, s.Spec.PodManagementPolicy = new(int32(3)), "member", appsv1.ParallelPodManagement
	s.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	s.Spec.Template.Labels = labels
	s.Spec.Template.Spec.TerminationGracePeriodSeconds = new(int64(2))
	s.Spec.Template.Spec.Containers = []corev1.Container{{
		Name: "c", Image: "member:latest", ImagePullPolicy: corev1.PullIfNotPresent,
		Env:          []corev1.EnvVar{{Name: "WITNESS", Value: l.URL}, {Name: "DATA", Value: "/data"}},
		VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
	}}
	s.Spec.Template.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: corev1.LabelHostname, LabelSelector: s.Spec.Selector}},
	}}
	data := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}}
	data.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	data.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Mi")}
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{data}
	return s
}

// fleet is the set as the test sees it.
type fleet struct {
	t      *testing.T
	server *Node
	lives  *lives
}

func (f *fleet) pod(name string) (*corev1.Pod, error) {
	return api.Get[*corev1.Pod](f.t.Context(), f.server.Objects(), api.Pods, "default", name)
}

// living waits until all pods are ready, and heard of in as many lives as given.
func (f *fleet) living(want map[string]int) map[string]*corev1.Pod {
	f.t.Helper()
	out := map[string]*corev1.Pod{}
	platform.Eventually(f.t, patience, func() error {
		for name, n := range want {
			p, err := f.pod(name)
			if err != nil {
				return err
			}
			_, at, count := f.lives.of(name)
			if !podstate.Ready(p) || p.DeletionTimestamp != nil || count != n || time.Since(at) > time.Second {
				return fmt.Errorf("%s on %s: ready %v, deleted %v, its life %d was heard of %s ago; want life %d", name, p.Spec.NodeName, podstate.Ready(p), p.DeletionTimestamp, count, time.Since(at), n)
			}
			out[name] = p
		}
		return nil
	})
	return out
}

// stays watches for a while that a pod of a name is the one that it was.
func (f *fleet) stays(name string, uid types.UID, d time.Duration) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), d)
	defer cancel()
	every := time.NewTicker(200 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		if p, err := f.pod(name); err != nil || p.UID != uid {
			f.t.Fatalf("%s is %v, %v; it was %s", name, p, err, uid)
		}
	}
}

// A node that its server does not hear goes on running its pods. They are not replaced
// until it has ended them, or is said to be dead; and they find their data again.
func TestStatefulSetOnLostNodes(t *testing.T) {
	leaveNothing(t)
	c := New(t, Config{})
	nodes := c.One(Build(t, "testdata/stateful")...)
	server := nodes[0]
	f := &fleet{t, server, newLives(t, c)}
	if _, err := server.Objects().Create(t.Context(), members(f.lives)); err != nil {
		t.Fatal(err)
	}
	first := f.living(map[string]int{"member-0": 1, "member-1": 1, "member-2": 1})
	on := map[string]string{}
	for name, p := range first {
		on[p.Spec.NodeName] = name
	}
	if len(on) != 3 {
		t.Fatalf("the pods are on %v, want one on each node", on)
	}

	// Cut off from its server alone: its pod still tells that it lives.
	name := on["h1"]
	life, _, _ := f.lives.of(name)
	c.Hub.Partition("h0", "h1")
	f.lost("h1")
	f.delete(name)
	f.stays(name, first[name].UID, 15*time.Second)
	asked := time.Now()
	platform.Eventually(t, patience, func() error {
		if now, at, _ := f.lives.of(name); now != life || at.Before(asked) {
			return fmt.Errorf("the pod of the node that was cut off is in life %s, heard of %s ago; it was in %s", now, time.Since(at), life)
		}
		return nil
	})
	c.Hub.Heal()
	second := f.living(map[string]int{"member-0": 1, "member-1": 1, "member-2": 1, name: 2})
	if second[name].Spec.NodeName != "h1" || second[name].UID == first[name].UID {
		t.Errorf("%s is %s on %s, want another one, where its data is", name, second[name].UID, second[name].Spec.NodeName)
	}

	// Dead, and said to be: its pod goes at once. Its data is where it was.
	name = on["h2"]
	if err := nodes[2].Host.PowerOff(); err != nil {
		t.Fatal(err)
	}
	f.lost("h2")
	f.stays(name, first[name].UID, 5*time.Second)
	f.outOfService("h2", true)
	platform.Eventually(t, patience, func() error {
		p, err := f.pod(name)
		if err == nil && (p.UID == first[name].UID || p.Spec.NodeName != "") {
			err = fmt.Errorf("%s is %s on %q", name, p.UID, p.Spec.NodeName)
		}
		return err
	})
	if err := nodes[2].Host.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	nodes[2].Start()
	f.outOfService("h2", false)
	f.living(map[string]int{name: 2})
	f.cleared()
	f.lives.mu.Lock()
	defer f.lives.mu.Unlock()
	if len(f.lives.twice) > 0 {
		t.Errorf("two of a name at one time:\n%s", strings.Join(f.lives.twice, "\n"))
	}
}

// cleared deletes the set and its claims, and waits until the nodes have removed what
// was on their disks.
func (f *fleet) cleared() {
	f.t.Helper()
	o := f.server.Objects()
	if _, err := o.Delete(f.t.Context(), api.StatefulSets, "default", "member", api.DeleteOptions{}); err != nil {
		f.t.Fatal(err)
	}
	for i := range 3 {
		if _, err := o.Delete(f.t.Context(), api.PersistentVolumeClaims, "default", fmt.Sprintf("data-member-%d", i), api.DeleteOptions{}); err != nil {
			f.t.Fatal(err)
		}
	}
	platform.Eventually(f.t, patience, func() error {
		left, err := o.List(f.t.Context(), api.PersistentVolumes, api.ListOptions{})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d volumes are left, one of them %s", len(left.Items), left.Items[0].GetName())
		}
		return err
	})
}

// lost waits until a node is.
func (f *fleet) lost(node string) {
	f.t.Helper()
	platform.Eventually(f.t, patience, func() error {
		n, err := api.Get[*corev1.Node](f.t.Context(), f.server.Objects(), api.Nodes, "", node)
		if err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown {
				return nil
			}
		}
		return errors.New(node + " is not lost")
	})
}

func (f *fleet) delete(pod string) {
	f.t.Helper()
	if _, err := f.server.Objects().Delete(f.t.Context(), api.Pods, "default", pod, api.DeleteOptions{}); err != nil {
		f.t.Fatal(err)
	}
}

// outOfService says of a node that it is dead, or takes that back.
func (f *fleet) outOfService(node string, dead bool) {
	f.t.Helper()
	_, err := api.Mutate(f.t.Context(), f.server.Objects(), api.Nodes, "", node, api.UpdateOptions{}, func(n *corev1.Node) (bool, error) {
		var keep []corev1.Taint
		for _, t := range n.Spec.Taints {
			if t.Key != corev1.TaintNodeOutOfService {
				keep = append(keep, t)
			}
		}
		if dead {
			keep = append(keep, corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute})
		}
		n.Spec.Taints = keep
		return true, nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
}
