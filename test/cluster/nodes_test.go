package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	"github.com/podsnap/podsnap/test/platform"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// seenNode is what `faas node list` shows of a node.
type seenNode struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Pods   int    `json:"pods"`
}

// list is what `faas node list` shows on a server, by name.
func list(ctx context.Context, server *Node) (map[string]seenNode, error) {
	out, err := server.Host.Run(ctx, "faas", "node", "list", "-o", "json")
	if err != nil {
		return nil, err
	}
	var all []seenNode
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	by := map[string]seenNode{}
	for _, n := range all {
		by[n.Name] = n
	}
	return by, nil
}

// become waits until the nodes are as wanted.
func become(t *testing.T, server *Node, limit time.Duration, want map[string]seenNode) {
	t.Helper()
	platform.Eventually(t, limit, func() error {
		got, err := list(t.Context(), server)
		if err == nil && !maps.Equal(got, want) {
			err = fmt.Errorf("the nodes are %v, want %v", got, want)
		}
		return err
	})
}

// fetch has a replica of the witness function get a URL.
func fetch(ctx context.Context, c *http.Client, through *Node, url string) (string, error) {
	return get(ctx, c, through.URL+"/function/witness/?fetch="+url)
}

// get answers with what is at a URL.
func get(ctx context.Context, c *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%d %s", resp.StatusCode, b)
	}
	return strings.TrimSpace(string(b)), err
}

// names has pods on all nodes find a function, the gateway and a Service by name,
// and the Service lead to pods on all nodes.
func names(t *testing.T, client *http.Client, server *Node, nodes []*Node) {
	t.Helper()
	svc, err := api.Create(t.Context(), server.Objects(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.FunctionNamespace, Name: "plain"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{api.LabelFunction: "witness"},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(api.FunctionPort)}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]bool{}
	for _, url := range []string{
		"http://witness.openfaas-fn:8080/hostname",
		"http://gateway.openfaas:8080/function/witness/hostname",
		"http://plain/hostname", "http://plain.openfaas-fn.svc.cluster.local/hostname", "http://" + svc.Spec.ClusterIP + "/hostname",
	} {
		platform.Eventually(t, patience, func() error { // the Service takes a moment
			_, err := fetch(t.Context(), client, server, url)
			return err
		})
		for range 4 {
			for _, n := range nodes {
				name, err := fetch(t.Context(), client, n, url)
				if err != nil || !strings.HasPrefix(name, "witness-") {
					t.Errorf("%s through %s: %q, %v", url, n.Host.Name, name, err)
				}
				hosts[name] = true
			}
		}
	}
	if len(hosts) != 3 {
		t.Errorf("the answers came from %v, want three replicas", hosts)
	}
	begun := time.Now()
	if _, err := fetch(t.Context(), client, server, "http://plain:81/"); err == nil || time.Since(begun) > 2*time.Second {
		t.Errorf("a port that the Service does not have: %v after %s, want a refusal at once", err, time.Since(begun))
	}
}

// ingress has every node's gateway lead two hosts of an Ingress: to the Service of
// names, whose endpoints are on all nodes, and to a function.
func ingress(t *testing.T, client *http.Client, server *Node, nodes []*Node) {
	t.Helper()
	kind := networkingv1.PathTypePrefix
	rule := func(host, service string, port int32) networkingv1.IngressRule {
		return networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{
			Paths: []networkingv1.HTTPIngressPath{{Path: "/", PathType: &kind, Backend: networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: service, Port: networkingv1.ServiceBackendPort{Number: port}},
			}}},
		}}}
	}
	if _, err := api.Create(t.Context(), server.Objects(), &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.FunctionNamespace, Name: "names"},
		Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{
			rule("plain.example", "plain", 80), rule("function.example", "witness", api.FunctionPort),
		}},
	}); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		heard := map[string]bool{}
		for _, host := range []string{"function.example", "plain.example"} {
			clear(heard)
			platform.Eventually(t, patience, func() error {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+"/hostname", http.NoBody)
				if err != nil {
					return err
				}
				req.Host = host
				resp, err := client.Do(req)
				if err != nil {
					return err
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if err != nil {
					return err
				}
				name := strings.TrimSpace(string(b))
				if resp.StatusCode != http.StatusOK || !strings.HasPrefix(name, "witness-") {
					return fmt.Errorf("%s through %s: %d %q", host, n.Host.Name, resp.StatusCode, b)
				}
				if heard[name] = true; len(heard) < 3 {
					return fmt.Errorf("%s through %s: only %v, want the replicas of all nodes", host, n.Host.Name, heard)
				}
				return nil
			})
		}
	}
	platform.Eventually(t, patience, func() error {
		i, err := api.Get[*networkingv1.Ingress](t.Context(), server.Objects(), api.Ingresses, api.FunctionNamespace, "names")
		if err == nil && len(i.Status.LoadBalancer.Ingress) != len(nodes) {
			err = fmt.Errorf("the Ingress is at %v, want all nodes", i.Status.LoadBalancer.Ingress)
		}
		return err
	})
}

// isolation has a function try what it must not reach; names has had it reach what
// it may.
func isolation(t *testing.T, client *http.Client, nodes []*Node) {
	t.Helper()
	if got, err := fetch(t.Context(), client, nodes[0], "http://169.254.169.254/latest/meta-data"); err == nil {
		t.Errorf("the metadata of a cloud: %q", got) // it may also be that there is no route
	}
	targets := map[string]string{}
	for _, n := range nodes {
		ip := n.Host.IP()
		targets["the gateway's own door on "+n.Host.Name] = "http://" + ip + ":8080/healthz"
		targets["the agent of "+n.Host.Name] = "http://" + ip + ":10250/"
	}
	server := nodes[0].Host.IP()
	targets["the API"] = "http://" + server + ":6443/"
	targets["the metrics"] = "http://" + server + ":8082/metrics"
	for what, url := range targets {
		for _, n := range nodes { // whose gateway prefers replicas of any node
			begun := time.Now()
			got, err := fetch(t.Context(), client, n, url)
			if err == nil || !strings.Contains(err.Error(), "connection refused") || time.Since(begun) > 2*time.Second {
				t.Errorf("%s, tried through %s: %q, %v after %s, want a refusal at once", what, n.Host.Name, got, err, time.Since(begun))
			}
		}
	}
}

// opened has functions of all nodes reach a port of one machine while its Node says
// so.
func opened(t *testing.T, client *http.Client, nodes []*Node) {
	t.Helper()
	objects, url := nodes[0].Objects(), "http://"+nodes[0].Host.IP()+":8082/metrics"
	say := func(ports string) {
		t.Helper()
		if _, err := api.Mutate(t.Context(), objects, api.Nodes, "", nodes[0].Host.Name, api.UpdateOptions{}, func(n *corev1.Node) (bool, error) {
			n.Annotations = map[string]string{api.AnnotationFunctionPorts: ports}
			return true, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, ports := range []string{"8082/tcp", "8082/udp"} {
		say(ports)
		want := ports == "8082/tcp"
		for _, n := range nodes {
			platform.Eventually(t, patience, func() error {
				got, err := fetch(t.Context(), client, n, url)
				if reached := strings.Contains(got, "go_goroutines"); reached != want {
					return fmt.Errorf("%s open, the metrics through %s: %q, want reached %t: %s", ports, n.Host.Name, got, want, fmt.Sprint(err))
				}
				return nil
			})
		}
	}
}

// addresses are those of the running pods of a namespace, by node.
func addresses(t *testing.T, server *Node, namespace string, want int) map[string]string {
	t.Helper()
	out := map[string]string{}
	platform.Eventually(t, patience, func() error {
		clear(out)
		pods, err := api.Items[*corev1.Pod](t.Context(), server.Objects(), api.Pods, api.ListOptions{Namespace: namespace})
		for _, p := range pods {
			if p.Status.PodIP != "" && p.Status.Phase == corev1.PodRunning {
				out[p.Spec.NodeName] = p.Status.PodIP
			}
		}
		if err == nil && len(out) != want {
			err = fmt.Errorf("pods of %s run at %v, want %d", namespace, out, want)
		}
		return err
	})
	return out
}

// everywhere tries from a replica on each node to reach each address, until that
// is as wanted.
func everywhere(t *testing.T, client *http.Client, what string, from, to map[string]string, want bool) {
	t.Helper()
	for at, ip := range from {
		for on, target := range to {
			if ip == target && !want {
				continue // it always reaches itself
			}
			platform.Eventually(t, 5*time.Second, func() error {
				begun := time.Now()
				got, err := get(t.Context(), client, "http://"+ip+":8080/?fetch=http://"+target+":8080/hostname")
				switch {
				case want && err != nil:
					return fmt.Errorf("%s: from %s to the pod on %s: %w", what, at, on, err)
				case !want && (err == nil || !strings.Contains(err.Error(), "connection refused") || time.Since(begun) > 2*time.Second):
					return fmt.Errorf("%s: from %s to the pod on %s: %q, %w after %s, want a refusal at once", what, at, on, got, err, time.Since(begun))
				}
				return nil
			})
		}
	}
}

// policies has functions of two namespaces, and a policy, on all nodes: who reaches
// whom by the pods' addresses, and that the gateways reach all.
func policies(t *testing.T, client *http.Client, server *Node, nodes []*Node) {
	t.Helper()
	const red = "red"
	objects := server.Objects()
	if _, err := objects.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: red, Labels: map[string]string{api.LabelFunctionNamespace: "1"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Client.Deploy(t.Context(), openfaas.FunctionDeployment{
		Service: "witness", Namespace: red, Image: "witness:latest", Labels: map[string]string{"com.openfaas.scale.min": "3", "com.openfaas.scale.max": "3"},
	}); err != nil {
		t.Fatal(err)
	}
	// Pods are asked at their addresses by the server's host, which is a node.
	inside := server.Host.HTTPClient()
	ours, theirs := addresses(t, server, api.FunctionNamespace, 3), addresses(t, server, red, 3)
	everywhere(t, inside, "another tenant's pods", ours, theirs, false)
	everywhere(t, inside, "another tenant's pods, the other way", theirs, ours, false)
	everywhere(t, inside, "the tenant's own pods", ours, ours, true)
	everywhere(t, inside, "the other tenant's own pods", theirs, theirs, true)
	gateways := func(what string) {
		t.Helper()
		for _, n := range nodes {
			platform.Eventually(t, 5*time.Second, func() error {
				name, err := fetch(t.Context(), client, n, "http://witness.red:8080/hostname")
				if err == nil && !strings.HasPrefix(name, "witness-") {
					err = fmt.Errorf("answered %q", name)
				}
				if err != nil {
					err = fmt.Errorf("%s: through the gateway of %s: %w", what, n.Host.Name, err)
				}
				return err
			})
		}
	}
	gateways("another tenant's function")

	np := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: red, Name: "quiet"},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}},
	}
	stored, err := api.Create(t.Context(), objects, np)
	if err != nil {
		t.Fatal(err)
	}
	everywhere(t, inside, "a policy that lets nobody in", theirs, theirs, false)
	everywhere(t, inside, "whom the policy does not select", ours, ours, true)
	gateways("a policy that lets nobody in")
	next := stored.DeepCopy()
	next.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
		From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{api.LabelFunction: "witness"}}}},
		Ports: []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromInt32(api.FunctionPort))}},
	}}
	if _, err := objects.Update(t.Context(), next, api.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	everywhere(t, inside, "a policy that lets the function's pods in", theirs, theirs, true)
	if _, err := objects.Delete(t.Context(), api.NetworkPolicies, red, "quiet", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := server.Client.Delete(t.Context(), red, "witness"); err != nil {
		t.Fatal(err)
	}
	if _, err := objects.Delete(t.Context(), api.Namespaces, "", red, api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	addresses(t, server, red, 0)
	become(t, server, patience, map[string]seenNode{"h0": {"h0", "Ready", 1}, "h1": {"h1", "Ready", 1}, "h2": {"h2", "Ready", 1}})
}

// A server and two machines that join it are one cluster: a function's replicas
// are spread over them, every gateway serves it, and each of the machines may end
// and come back.
func TestThreeNodes(t *testing.T) {
	leaveNothing(t)
	c := New(t, Config{})
	images := Build(t, "testdata")
	for _, h := range c.Hosts {
		c.Images(h, images...)
	}
	server := c.Server(c.Hosts[0])
	nodes := []*Node{server, c.Join(c.Hosts[1], server), c.Join(c.Hosts[2], server)}
	become(t, server, patience, map[string]seenNode{"h0": {"h0", "Ready", 0}, "h1": {"h1", "Ready", 0}, "h2": {"h2", "Ready", 0}})
	if err := deploy(t.Context(), server, 3, nil); err != nil {
		t.Fatal(err)
	}
	become(t, server, patience, map[string]seenNode{"h0": {"h0", "Ready", 1}, "h1": {"h1", "Ready", 1}, "h2": {"h2", "Ready", 1}})
	for _, from := range c.all() {
		client := from.HTTPClient()
		for _, to := range nodes {
			for range 6 { // more than there are replicas
				if err := call(t.Context(), client, to, 10*time.Second); err != nil {
					t.Errorf("from %s through %s: %v", from.Name, to.Host.Name, err)
				}
			}
		}
	}
	client := c.Client.HTTPClient()
	calls := func(through *Node, what string) {
		t.Helper()
		for range 10 {
			if err := call(t.Context(), client, through, 5*time.Second); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	// What manages functions is served by every gateway too.
	if fns, err := nodes[1].Client.Functions(t.Context(), ""); err != nil || len(fns) != 1 || fns[0].Name != "witness" {
		t.Errorf("the functions through h1: %v, %v", fns, err)
	}

	names(t, client, server, nodes)
	ingress(t, client, server, nodes)
	opened(t, client, nodes)
	isolation(t, client, nodes)
	policies(t, client, server, nodes)

	nodes[1].Kill() // its replica goes on
	calls(server, "while the agent of h1 is dead")
	nodes[1].Start()
	calls(nodes[1], "when it is there again")

	if err := nodes[2].Host.PowerOff(); err != nil {
		t.Fatal(err)
	}
	cut := time.Now()
	// What was sent to it is lost, if it is nothing that may be sent twice; what
	// comes next is spared.
	lost := 0
	for range 20 {
		if err := call(t.Context(), client, nodes[1], 5*time.Second); err != nil {
			lost++
			t.Logf("after the power cut of h2: %v", err)
		}
	}
	if lost > 1 {
		t.Errorf("after the power cut of h2 %d calls in a row failed, want one at most", lost)
	}
	platform.Eventually(t, 10*time.Second, func() error {
		got, err := list(t.Context(), server)
		if err == nil && (got["h0"].Pods+got["h1"].Pods != 3 || got["h2"] != seenNode{"h2", "Lost", 0}) {
			err = fmt.Errorf("the nodes are %v, want h2 lost and its replica elsewhere", got)
		}
		return err
	})
	t.Logf("its replica was elsewhere after %.1f s", time.Since(cut).Seconds())
	if err := nodes[2].Host.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	nodes[2].Start() // with the certificate that it has: the token is used up
	platform.Eventually(t, patience, func() error {
		got, err := list(t.Context(), server)
		if err == nil && got["h2"] != (seenNode{"h2", "Ready", 0}) {
			err = fmt.Errorf("the nodes are %v, want h2 ready and empty", got)
		}
		return err
	})
	client = c.Client.HTTPClient() // without connections to what was there before
	calls(nodes[2], "through h2 again")

	drained(t, server)
	calls(server, "after h1 was emptied and taken into use again")

	// A node is emptied and removed, and what it knows opens no door any more.
	if out, err := server.Host.Run(t.Context(), "faas", "node", "remove", "h1"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	platform.Eventually(t, patience, func() error {
		got, err := list(t.Context(), server)
		if _, there := got["h1"]; err == nil && (there || got["h0"].Pods+got["h2"].Pods != 3) {
			err = fmt.Errorf("the nodes are %v, want three replicas on h0 and h2", got)
		}
		return err
	})
	calls(server, "without h1")
	if fns, err := nodes[1].Client.Functions(t.Context(), ""); err == nil {
		t.Errorf("a machine that is no node any more still gets answers: %v", fns)
	}
}

// drained empties h1: a daemon's pod stays there, and a budget has its say.
func drained(t *testing.T, server *Node) {
	t.Helper()
	label := map[string]string{"app": "daemon"}
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "daemon"}}
	ds.Spec.Selector, ds.Spec.Template.Labels = &metav1.LabelSelector{MatchLabels: label}, label
	ds.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "witness:latest", ImagePullPolicy: corev1.PullIfNotPresent}}
	if _, err := server.Objects().Create(t.Context(), ds); err != nil {
		t.Fatal(err)
	}
	daemons := func(want int32) {
		t.Helper()
		platform.Eventually(t, patience, func() error {
			d, err := api.Get[*appsv1.DaemonSet](t.Context(), server.Objects(), api.DaemonSets, "default", "daemon")
			if err == nil && (d.Status.NumberAvailable != want || d.Status.DesiredNumberScheduled != want) {
				err = fmt.Errorf("the daemon's status is %+v, want %d available", d.Status, want)
			}
			return err
		})
	}
	daemons(3)
	none := intstr.FromInt32(0)
	pdb := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: api.FunctionNamespace, Name: "witness"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{api.LabelFunction: "witness"}}, MaxUnavailable: &none,
		},
	}
	if _, err := server.Objects().Create(t.Context(), pdb); err != nil {
		t.Fatal(err)
	}
	platform.Eventually(t, patience, func() error {
		b, err := api.Get[*policyv1.PodDisruptionBudget](t.Context(), server.Objects(), api.PodDisruptionBudgets, pdb.Namespace, pdb.Name)
		if err == nil && (b.Status.CurrentHealthy != 3 || b.Status.DisruptionsAllowed != 0) {
			err = fmt.Errorf("the budget's status is %+v, want three healthy and none allowed to go", b.Status)
		}
		return err
	})
	if out, err := server.Host.Run(t.Context(), "faas", "node", "drain", "h1", "--timeout", "3s"); err == nil || !strings.Contains(out+err.Error(), "The disruption budget witness needs 3 healthy pods and has 3 currently") {
		t.Errorf("a node is emptied though a budget forbids it: %v\n%s", err, out)
	}
	_, err := api.Mutate(t.Context(), server.Objects(), api.PodDisruptionBudgets, pdb.Namespace, pdb.Name, api.UpdateOptions{}, func(b *policyv1.PodDisruptionBudget) (bool, error) {
		b.Spec.MaxUnavailable.IntVal = 1
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := server.Host.Run(t.Context(), "faas", "node", "drain", "h1"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	daemons(3)
	if out, err := server.Host.Run(t.Context(), "faas", "node", "uncordon", "h1"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for r, o := range map[*api.Resource]types.NamespacedName{
		api.PodDisruptionBudgets: {Namespace: pdb.Namespace, Name: pdb.Name}, api.DaemonSets: {Namespace: ds.Namespace, Name: ds.Name},
	} {
		if _, err := server.Objects().Delete(t.Context(), r, o.Namespace, o.Name, api.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
	platform.Eventually(t, patience, func() error {
		on, err := spread(t.Context(), server)
		if n := on["h0"] + on["h2"]; err == nil && n != 3 {
			err = fmt.Errorf("the replicas are on %v, want three on h0 and h2", on)
		}
		return err
	})
}
