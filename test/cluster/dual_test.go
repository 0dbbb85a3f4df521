package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/test/platform"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// secondAddresses are those of the witness's pods in IPv6, by node.
func secondAddresses(t *testing.T, server *Node) map[string]string {
	t.Helper()
	out := map[string]string{}
	pods, err := api.Items[*corev1.Pod](t.Context(), server.Objects(), api.Pods, api.ListOptions{Namespace: api.FunctionNamespace})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		if len(p.Status.PodIPs) != 2 || p.Status.PodIPs[0].IP != p.Status.PodIP {
			t.Fatalf("pod %s has the addresses %v, want one of each family", p.Name, p.Status.PodIPs)
		}
		out[p.Spec.NodeName] = p.Status.PodIPs[1].IP
	}
	return out
}

// gateways6 are the addresses that pods have name server and gateway at, by node.
func gateways6(t *testing.T, server *Node) map[string]string {
	t.Helper()
	out := map[string]string{}
	nodes, err := api.Items[*corev1.Node](t.Context(), server.Objects(), api.Nodes, api.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if len(n.Spec.PodCIDRs) != 2 {
			t.Fatalf("node %s has the blocks %v, want one of each family", n.Name, n.Spec.PodCIDRs)
		}
		out[n.Name] = netip.MustParsePrefix(n.Spec.PodCIDRs[1]).Addr().Next().String()
	}
	return out
}

// dualService makes a Service of the witness's pods.
func dualService(t *testing.T, server *Node, name string, families ...corev1.IPFamily) *corev1.Service {
	t.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.FunctionNamespace, Name: name},
		Spec: corev1.ServiceSpec{
			IPFamilies: families, Selector: map[string]string{api.LabelFunction: "witness"},
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(api.FunctionPort)}},
		},
	}
	if len(families) > 1 {
		svc.Spec.IPFamilyPolicy = new(corev1.IPFamilyPolicyRequireDualStack)
	}
	made, err := api.Create(t.Context(), server.Objects(), svc)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(made.Spec.IPFamilies, families) || len(made.Spec.ClusterIPs) != len(families) {
		t.Fatalf("Service %s has the addresses %v of %v, want %v", name, made.Spec.ClusterIPs, made.Spec.IPFamilies, families)
	}
	return made
}

// A cluster of two families: pods of all nodes reach one another, Services and the
// gateway in IPv6, by address and by name, and not what policies and isolation keep
// them from.
func TestDualStack(t *testing.T) {
	leaveNothing(t)
	c := New(t, Config{})
	images := Build(t, "testdata")
	for _, h := range c.Hosts {
		c.Images(h, images...)
	}
	server := c.Server(c.Hosts[0], "--cluster-cidr", "10.62.0.0/16,fd62::/56", "--service-cidr", "10.96.0.0/16,fd96::/112")
	c.Join(c.Hosts[1], server)
	c.Join(c.Hosts[2], server)
	become(t, server, patience, map[string]seenNode{"h0": {"h0", "Ready", 0}, "h1": {"h1", "Ready", 0}, "h2": {"h2", "Ready", 0}})
	if err := deploy(t.Context(), server, 3, nil); err != nil {
		t.Fatal(err)
	}
	four := addresses(t, server, api.FunctionNamespace, 3)
	six, gateways := secondAddresses(t, server), gateways6(t, server)
	inside := server.Host.HTTPClient()
	ask := func(from, url string) (string, error) {
		return get(t.Context(), inside, "http://"+four[from]+":8080/?fetch="+url)
	}
	answered := func(from, url string) string {
		t.Helper()
		var name string
		platform.Eventually(t, patience, func() (err error) {
			if name, err = ask(from, url); err == nil && !strings.HasPrefix(name, "witness-") {
				err = fmt.Errorf("answered %q", name)
			}
			if err != nil {
				err = fmt.Errorf("%s from the pod on %s: %w", url, from, err)
			}
			return err
		})
		return name
	}
	refused := func(what, from, url string) {
		t.Helper()
		platform.Eventually(t, 5*time.Second, func() error {
			begun := time.Now()
			got, err := ask(from, url)
			if err == nil || !strings.Contains(err.Error(), "connection refused") || time.Since(begun) > 2*time.Second {
				return fmt.Errorf("%s, %s from the pod on %s: %q, %w after %s, want a refusal at once", what, url, from, got, err, time.Since(begun))
			}
			return nil
		})
	}
	both := dualService(t, server, "both", corev1.IPv4Protocol, corev1.IPv6Protocol)
	alone := dualService(t, server, "six", corev1.IPv6Protocol)
	for from := range four {
		for _, to := range six {
			answered(from, "http://["+to+"]:8080/hostname")
		}
		hosts := map[string]bool{}
		platform.Eventually(t, patience, func() error { // a replica may only just be ready
			for _, url := range []string{
				"http://[" + both.Spec.ClusterIPs[1] + "]/hostname", "http://" + both.Spec.ClusterIP + "/hostname",
				"http://six/hostname", "http://six.openfaas-fn.svc.cluster.local/hostname", "http://both/hostname",
			} {
				for range 5 {
					hosts[answered(from, url)] = true
				}
			}
			if len(hosts) != 3 {
				return fmt.Errorf("the Services led the pod on %s to %v, want three replicas", from, hosts)
			}
			return nil
		})
		answered(from, "http://["+gateways[from]+"]:8080/function/witness/hostname")
		for at, gateway := range gateways {
			if at != from {
				refused("another node's gateway", from, "http://["+gateway+"]:8080/healthz")
			}
		}
		refused("the agent of its node", from, "http://["+gateways[from]+"]:10250/")
		refused("a port that a Service does not have", from, "http://["+alone.Spec.ClusterIP+"]:81/")
	}
	if name, err := get(t.Context(), inside, "http://["+alone.Spec.ClusterIP+"]/hostname"); err != nil || !strings.HasPrefix(name, "witness-") {
		t.Errorf("a node itself, by the Service's address: %q, %v", name, err)
	}
	if _, err := server.Objects().Create(t.Context(), &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.FunctionNamespace, Name: "quiet"},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}},
	}); err != nil {
		t.Fatal(err)
	}
	for from := range four {
		for to, ip := range six {
			if to != from {
				refused("a policy that lets nobody in", from, "http://["+ip+"]:8080/hostname")
			}
		}
	}
}
