package address

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/admission"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rig is a store whose writes get addresses.
func rig(t *testing.T, c Config) *memory.Objects {
	t.Helper()
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	o := memory.New(memory.Config{Admit: a.Admit(admission.Admit)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return o
}

func service(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func TestServicesGetAddresses(t *testing.T) {
	o := rig(t, Config{Services: netip.MustParsePrefix("10.96.0.0/28")})
	create := func(s *corev1.Service) *corev1.Service {
		t.Helper()
		got, err := api.Create(t.Context(), o, s)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	a, b := create(service("a", nil)), create(service("b", nil))
	if a.Spec.ClusterIP != "10.96.0.1" || b.Spec.ClusterIP != "10.96.0.2" || a.Spec.ClusterIPs[0] != a.Spec.ClusterIP {
		t.Errorf("got %s and %s", a.Spec.ClusterIP, b.Spec.ClusterIP)
	}
	if f := a.Spec.IPFamilies; len(f) != 1 || f[0] != corev1.IPv4Protocol || *a.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Errorf("families %v", f)
	}
	own := create(service("own", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.9" }))
	if own.Spec.ClusterIP != "10.96.0.9" {
		t.Errorf("asked for 10.96.0.9, got %s", own.Spec.ClusterIP)
	}
	none := create(service("none", func(s *corev1.ServiceSpec) { s.ClusterIP = "None" }))
	if none.Spec.ClusterIP != "None" || none.Spec.ClusterIPs[0] != "None" {
		t.Errorf("headless: %v", none.Spec.ClusterIPs)
	}
	outside := create(service("outside", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
		s.Ports = append(s.Ports, corev1.ServicePort{Name: "b", Port: 53, Protocol: corev1.ProtocolUDP}, corev1.ServicePort{Name: "c", Port: 81, NodePort: 30001})
		s.Ports[0].Name = "a"
	}))
	p := outside.Spec.Ports
	if p[0].NodePort != 30000 || p[1].NodePort != 30000 || p[2].NodePort != 30001 || outside.Spec.HealthCheckNodePort != 30002 {
		t.Errorf("node ports %d %d %d, health %d", p[0].NodePort, p[1].NodePort, p[2].NodePort, outside.Spec.HealthCheckNodePort)
	}
	for name, tt := range map[string]struct {
		s    *corev1.Service
		want string
	}{
		"taken":          {service("x", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.2" }), "spec.clusterIPs[0]: Invalid value: \"10.96.0.2\": provided IP is already allocated"},
		"elsewhere":      {service("x", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.97.0.2" }), "10.96.0.0/28"},
		"port is taken":  {service("x", func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30001 }), "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated"},
		"port of others": {service("x", func(s *corev1.ServiceSpec) { s.Type, s.Ports[0].NodePort = corev1.ServiceTypeNodePort, 80 }), "30000-32767"},
	} {
		if _, err := api.Create(t.Context(), o, tt.s); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want Invalid with %q", name, err, tt.want)
		}
	}

	// An update keeps what it does not name, and what a new type has no use for
	// goes.
	next := service("outside", func(s *corev1.ServiceSpec) { s.Ports = outside.DeepCopy().Spec.Ports })
	got, err := api.Update(t.Context(), o, next, api.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Spec.ClusterIP != outside.Spec.ClusterIP || got.Spec.Ports[0].NodePort != 0 || got.Spec.HealthCheckNodePort != 0 {
		t.Errorf("after the change to ClusterIP: %+v", got.Spec)
	}
	name := service("a", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalName, s.ClusterIP = corev1.ServiceTypeExternalName, "example.com", ""
	})
	if got, err = api.Update(t.Context(), o, name, api.UpdateOptions{}); err != nil || got.Spec.ClusterIP != "" {
		t.Errorf("after the change to ExternalName: %q, %v", got.Spec.ClusterIP, err)
	}
	if got, err = api.Update(t.Context(), o, service("a", nil), api.UpdateOptions{}); err != nil || got.Spec.ClusterIP == "" {
		t.Errorf("and back: %q, %v", got.Spec.ClusterIP, err)
	}
}

// What was deleted is handed out again, and what was stored before a start is
// not.
func TestAddressesComeBack(t *testing.T) {
	o := rig(t, Config{Services: netip.MustParsePrefix("10.96.0.0/28")})
	for n := range 100 {
		s, err := api.Create(t.Context(), o, service("s", nil))
		if err != nil {
			t.Fatalf("the %d. of one at a time: %v", n, err)
		}
		if _, err := o.Delete(t.Context(), api.Services, "default", "s", api.DeleteOptions{UID: s.UID}); err != nil {
			t.Fatal(err)
		}
		waitFor(t, o, s)
	}
	old := memory.New(memory.Config{Admit: admission.Admit})
	kept := service("kept", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.1" })
	if _, err := api.Create(t.Context(), old, kept); err != nil {
		t.Fatal(err)
	}
	a, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx, old) }()
	s := service("new", nil)
	if err := a.Admit(admission.Admit)(t.Context(), rules.OpCreate, api.Services, nil, s, ""); err != nil || s.Spec.ClusterIP != "10.96.0.2" {
		t.Errorf("after a start: %s, %v", s.Spec.ClusterIP, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// waitFor returns when a watch that began after the deletion has shown all that
// came before it. The allocator's own may be later, by which the test is only
// easier: a network of 14 addresses holds as many that are not free yet.
func waitFor(t *testing.T, o api.Objects, s *corev1.Service) {
	t.Helper()
	w, err := o.Watch(t.Context(), api.Services, api.WatchOptions{ResourceVersion: s.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.Events() {
		if e.Type == api.Deleted {
			return
		}
	}
	t.Fatal(w.Err())
}

func TestNodesGetBlocks(t *testing.T) {
	o := rig(t, Config{Pods: netip.MustParsePrefix("10.62.0.0/16"), NodeBits: 18})
	node := func(name, cidr string) (*corev1.Node, error) {
		return api.Create(t.Context(), o, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: cidr}})
	}
	for _, tt := range []struct{ name, asks, gets, err string }{
		{"own", "10.62.4.0/22", "10.62.4.0/22", ""}, // takes the first block with it
		{"a", "", "10.62.64.0/18", ""},
		{"b", "", "10.62.128.0/18", ""},
		{"overlapping", "10.62.64.0/24", "", "overlaps with 10.62.64.0/18 of node a"},
		{"elsewhere", "10.99.0.0/24", "10.99.0.0/24", ""},
		{"the same elsewhere", "10.99.0.0/23", "", "overlaps with 10.99.0.0/24 of node elsewhere"},
		{"c", "", "10.62.192.0/18", ""},
		{"d", "", "", "no free block"},
	} {
		n, err := node(strings.ReplaceAll(tt.name, " ", "-"), tt.asks)
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
			}
		case err != nil || n.Spec.PodCIDR != tt.gets || n.Spec.PodCIDRs[0] != tt.gets:
			t.Errorf("%s: %v, %v, want %s", tt.name, n, err, tt.gets)
		}
	}
}

func TestNetworksThatCannotBe(t *testing.T) {
	for want, c := range map[string]Config{
		"overlap":            {Pods: netip.MustParsePrefix("10.96.0.0/12")},
		"IPv4":               {Services: netip.MustParsePrefix("fd00::/112")},
		"between 8 and":      {Services: netip.MustParsePrefix("10.96.0.0/30")},
		"must be between 16": {NodeBits: 8},
	} {
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", c, err, want)
		}
	}
}
