package endpoint

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

func service() *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "web"}}
	s.Spec.Ports = []corev1.ServicePort{{Name: "main", Port: 80, TargetPort: intstr.FromString("http")}}
	return s
}

func podAt(name string, port int32, ready, ending bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, UID: types.UID(name)}}
	p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: port}}}}
	p.Status.PodIP = "10.0.0.1"
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	if ending {
		p.DeletionTimestamp = &metav1.Time{}
	}
	return p
}

func TestConditions(t *testing.T) {
	for name, tt := range map[string]struct {
		pod                         *corev1.Pod
		publish                     bool
		ready, serving, terminating bool
		addresses, notReady         int
	}{
		"ready":               {pod: podAt("p", 1, true, false), ready: true, serving: true, addresses: 1},
		"starting":            {pod: podAt("p", 1, false, false), notReady: 1},
		"starting, published": {pod: podAt("p", 1, false, false), publish: true, ready: true, addresses: 1},
		"ending":              {pod: podAt("p", 1, true, true), serving: true, terminating: true},
		"ending, not serving": {pod: podAt("p", 1, false, true), terminating: true},
	} {
		t.Run(name, func(t *testing.T) {
			svc := service()
			svc.Spec.PublishNotReadyAddresses = tt.publish
			gs := groups(svc, []*corev1.Pod{tt.pod})
			c := wantSlices(svc, gs, nil, nowhere)[0].Endpoints[0].Conditions
			if *c.Ready != tt.ready || *c.Serving != tt.serving || *c.Terminating != tt.terminating {
				t.Errorf("ready %v serving %v terminating %v", *c.Ready, *c.Serving, *c.Terminating)
			}
			a, n := 0, 0
			for _, s := range wantEndpoints(svc, gs).Subsets {
				a, n = a+len(s.Addresses), n+len(s.NotReadyAddresses)
			}
			if a != tt.addresses || n != tt.notReady {
				t.Errorf("%d addresses and %d not ready, want %d and %d", a, n, tt.addresses, tt.notReady)
			}
		})
	}
}

func TestNamedPortsDiffer(t *testing.T) {
	svc := service()
	nameless := podAt("c", 1, true, false)
	nameless.Spec.Containers = nil
	got := wantSlices(svc, groups(svc, []*corev1.Pod{podAt("a", 8080, true, false), podAt("b", 9090, true, false), nameless}), nil, nowhere)
	ports := map[int32]int{}
	for _, s := range got {
		n := int32(0)
		if len(s.Ports) > 0 {
			n = *s.Ports[0].Port
		}
		ports[n] = len(s.Endpoints)
	}
	if len(got) != 3 || ports[8080] != 1 || ports[9090] != 1 || ports[0] != 1 {
		t.Errorf("endpoints by port: %v", ports)
	}
}

// However pods come and go, each is in one slice, no slice is too long, and a
// change of one pod touches one slice.
func TestSlicesStayStill(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		svc := service()
		var have []*discoveryv1.EndpointSlice
		there := map[string]*corev1.Pod{}
		for step := range rapid.IntRange(1, 20).Draw(t, "steps") {
			for i := range rapid.IntRange(0, 90).Draw(t, "come") {
				name := fmt.Sprintf("p%d-%d", step, i)
				there[name] = podAt(name, 8080, true, false)
			}
			most := rapid.IntRange(0, 5).Draw(t, "few or many go")
			for _, name := range slices.Sorted(maps.Keys(there)) {
				if rapid.IntRange(0, 5).Draw(t, "go") < most {
					delete(there, name)
				}
			}
			var pods []*corev1.Pod
			for _, p := range there {
				pods = append(pods, p)
			}
			was := map[types.UID]string{}
			for _, s := range have {
				for _, e := range s.Endpoints {
					was[e.TargetRef.UID] = s.Name
				}
			}
			have = wantSlices(svc, groups(svc, pods), have, nowhere)
			seen := map[types.UID]bool{}
			for _, s := range have {
				if len(s.Endpoints) > perSlice {
					t.Fatalf("%d endpoints in a slice", len(s.Endpoints))
				}
				for _, e := range s.Endpoints {
					if at := was[e.TargetRef.UID]; at != "" && at != s.Name || seen[e.TargetRef.UID] {
						t.Fatalf("%s moved from %s to %s", e.TargetRef.Name, at, s.Name)
					}
					seen[e.TargetRef.UID] = true
				}
			}
			if len(seen) != len(there) {
				t.Fatalf("%d endpoints of %d pods", len(seen), len(there))
			}
		}
	})
}

// nowhere is the zone of nodes without one.
func nowhere(string) string { return "" }

func TestHints(t *testing.T) {
	zones := map[string]string{"n1": "west"}
	for _, tt := range []struct {
		name, distribution, node string
		ending                   bool
		zones, nodes             []string
	}{
		{name: "not asked for", node: "n1"},
		{name: "zone", distribution: "PreferSameZone", node: "n1", zones: []string{"west"}},
		{name: "zone, by its former name", distribution: "PreferClose", node: "n1", zones: []string{"west"}},
		{name: "node", distribution: "PreferSameNode", node: "n1", zones: []string{"west"}, nodes: []string{"n1"}},
		{name: "node without a zone", distribution: "PreferSameNode", node: "n2", nodes: []string{"n2"}},
		{name: "zone of a node without one", distribution: "PreferSameZone", node: "n2"},
		{name: "no node yet", distribution: "PreferSameNode"},
		{name: "ending", distribution: "PreferSameNode", node: "n1", ending: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			svc, p := service(), podAt("p", 1, true, tt.ending)
			if tt.distribution != "" {
				svc.Spec.TrafficDistribution = &tt.distribution
			}
			p.Spec.NodeName = tt.node
			e := wantSlices(svc, groups(svc, []*corev1.Pod{p}), nil, func(node string) string { return zones[node] })[0].Endpoints[0]
			if want := zones[tt.node]; want != "" && (e.Zone == nil || *e.Zone != want) || want == "" && e.Zone != nil {
				t.Errorf("zone %v, want %q", e.Zone, want)
			}
			var hz, hn []string
			if e.Hints != nil {
				for _, z := range e.Hints.ForZones {
					hz = append(hz, z.Name)
				}
				for _, n := range e.Hints.ForNodes {
					hn = append(hn, n.Name)
				}
			}
			if !slices.Equal(hz, tt.zones) || !slices.Equal(hn, tt.nodes) {
				t.Errorf("hints for zones %v and nodes %v, want %v and %v", hz, hn, tt.zones, tt.nodes)
			}
		})
	}
}
