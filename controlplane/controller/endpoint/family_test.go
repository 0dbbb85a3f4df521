package endpoint

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// A service has slices of each of its families, with the pods that have an address
// of it, and an Endpoints object of its first one.
func TestFamilies(t *testing.T) {
	both, four := podAt("both", 8080, true, false), podAt("four", 8080, true, false)
	both.Status.PodIP, both.Status.PodIPs = "10.0.0.1", []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd62::1"}}
	four.Status.PodIP, four.Status.PodIPs = "10.0.0.2", []corev1.PodIP{{IP: "10.0.0.2"}}
	for _, c := range []struct {
		families []corev1.IPFamily
		want     string
		first    string
	}{
		{nil, "IPv4 [10.0.0.1 10.0.0.2]; ", "[10.0.0.1 10.0.0.2]"},
		{[]corev1.IPFamily{corev1.IPv4Protocol}, "IPv4 [10.0.0.1 10.0.0.2]; ", "[10.0.0.1 10.0.0.2]"},
		{[]corev1.IPFamily{corev1.IPv6Protocol}, "IPv6 [fd62::1]; ", "[fd62::1]"},
		{[]corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}, "IPv6 [fd62::1]; IPv4 [10.0.0.1 10.0.0.2]; ", "[fd62::1]"},
	} {
		svc := service()
		svc.Spec.IPFamilies = c.families
		gs := groups(svc, []*corev1.Pod{both, four})
		got, names := "", map[string]bool{}
		slices := wantSlices(svc, gs, nil, nowhere)
		for _, s := range slices {
			var all []string
			for _, e := range s.Endpoints {
				all = append(all, e.Addresses...)
			}
			got += fmt.Sprint(s.AddressType, " ", all, "; ")
			names[s.Name] = true
		}
		if got != c.want || len(names) != len(slices) {
			t.Errorf("%v: got %s named %v, want %s", c.families, got, names, c.want)
		}
		// They keep their pods when they are looked at again.
		if again := wantSlices(svc, gs, slices, nowhere); len(again) != len(slices) || !sameSlice(again[0], slices[0]) {
			t.Errorf("%v: got %v the second time", c.families, again)
		}
		var first []string
		for _, s := range wantEndpoints(svc, gs).Subsets {
			for _, a := range s.Addresses {
				first = append(first, a.IP)
			}
		}
		if fmt.Sprint(first) != c.first {
			t.Errorf("%v: the Endpoints are %v, want %s", c.families, first, c.first)
		}
	}
	// A family without pods has a slice that says so.
	svc := service()
	svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	got := wantSlices(svc, groups(svc, []*corev1.Pod{four}), nil, nowhere)
	if len(got) != 2 || got[1].AddressType != discoveryv1.AddressTypeIPv6 || len(got[1].Endpoints) != 0 {
		t.Errorf("got %v", got)
	}
}
