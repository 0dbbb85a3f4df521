package apiserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
	"github.com/podsnap/podsnap/controlplane/admission"
)

// logs is an agent that has logs and nothing else.
type logs struct {
	api.Agent
	text func(api.LogOptions) io.ReadCloser
}

func (l logs) Logs(_ context.Context, _ types.UID, o api.LogOptions) (io.ReadCloser, error) {
	return l.text(o), nil
}

// kube runs the real kubectl against a server.
type kube struct {
	*testing.T
	objects *memory.Objects
	dir     string
	path    string
}

func newKube(t *testing.T) *kube {
	t.Helper()
	path, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("kubectl is not on PATH")
	}
	o := memory.New(memory.Config{Admit: admission.Admit, Namespaces: true})
	agent := logs{text: func(o api.LogOptions) io.ReadCloser {
		return io.NopCloser(strings.NewReader(fmt.Sprintf("hello from %s tail=%d follow=%t\n", o.Container, o.Tail, o.Follow)))
	}}
	srv := httptest.NewUnstartedServer(server(t, Config{Objects: o, Token: "secret", Version: "1.2 dev", Agents: func(_ context.Context, node string) (api.Agent, error) {
		if node != "n1" {
			return nil, apierrors.NewServiceUnavailable("node " + node + " is not there")
		}
		return agent, nil
	}}))
	srv.EnableHTTP2 = true // as over TLS it is in earnest
	srv.StartTLS()
	t.Cleanup(srv.Close)
	k := &kube{T: t, objects: o, dir: t.TempDir(), path: path}
	// kubectl sends a token over TLS only.
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	text := "apiVersion: v1\nkind: Config\ncurrent-context: c\n" +
		"clusters: [{name: c, cluster: {server: '" + srv.URL + "', certificate-authority-data: '" + ca + "'}}]\n" +
		"contexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {token: secret}}]\n"
	if err := os.WriteFile(k.config(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"default", "openfaas-fn"} {
		if _, err := o.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func (k *kube) config() string { return filepath.Join(k.dir, "config") }

func (k *kube) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, k.path, append([]string{"--cache-dir", filepath.Join(k.dir, "cache")}, args...)...)
	cmd.Env = []string{"HOME=" + k.dir, "TMPDIR=" + k.dir, "KUBECONFIG=" + k.config(), "PATH=" + os.Getenv("PATH")}
	return cmd
}

// run answers with what kubectl says; wantErr is part of its complaint.
func (k *kube) run(stdin, wantErr string, args ...string) string {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), time.Minute)
	defer cancel()
	cmd := k.command(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if (err != nil) != (wantErr != "") || !strings.Contains(stderr.String(), wantErr) {
		k.Fatalf("kubectl %s: %v\n%s%s\nwant complaint %q", strings.Join(args, " "), err, stdout.String(), stderr.String(), wantErr)
	}
	return stdout.String()
}

// shows runs kubectl and wants words in its output.
func (k *kube) shows(stdin string, args []string, words ...string) {
	k.Helper()
	out := k.run(stdin, "", args...)
	for _, w := range words {
		if !strings.Contains(out, w) {
			k.Errorf("kubectl %s: %q is missing in\n%s", strings.Join(args, " "), w, out)
		}
	}
}

const manifest = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers: [{name: main, image: "img:1", ports: [{containerPort: 80}], resources: {requests: {cpu: 100m}}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: dep}
spec:
  replicas: 2
  selector: {matchLabels: {app: dep}}
  template:
    metadata: {labels: {app: dep}}
    spec: {containers: [{name: c, image: "img:1"}]}
---
apiVersion: v1
kind: Service
metadata: {name: svc}
spec: {selector: {app: dep}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Secret
metadata: {name: sec}
stringData: {key: value}
---
apiVersion: openfaas.com/v1
kind: Function
metadata: {name: fn}
spec: {name: fn, image: "img:1"}
`

func args(s string) []string { return strings.Fields(s) }

func TestKubectl(t *testing.T) {
	k := newKube(t)

	k.shows("", args("version"), "Server Version: v1.33.0+podsnap.1.2-dev")
	k.shows("", args("api-resources"), "deployments", "deploy", "openfaas.com/v1", "Function", "fn")
	k.shows("", args("api-versions"), "apps/v1", "openfaas.com/v1", "v1")

	k.shows(manifest, args("apply -f -"), "pod/web created", "deployment.apps/dep created", "service/svc created", "function.openfaas.com/fn created")
	k.shows(manifest, args("apply -f -"), "pod/web unchanged", "deployment.apps/dep unchanged", "function.openfaas.com/fn unchanged")
	k.shows(strings.ReplaceAll(manifest, "replicas: 2", "replicas: 3"), args("apply -f -"), "deployment.apps/dep configured")

	k.shows("", args("get pods"), "NAME", "READY", "STATUS", "RESTARTS", "AGE", "web", "0/1", "Pending")
	k.shows("", args("get po,deploy,svc,fn,secrets -A"), "pod/web", "0/3", "80/TCP", "service/svc", "function.openfaas.com/fn", "Opaque")
	k.shows("", args("get all"), "pod/web", "deployment.apps/dep", "service/svc", "function.openfaas.com/fn")
	k.shows("", args("get deploy dep -o jsonpath={.spec.strategy.rollingUpdate.maxSurge},{.spec.replicas}"), "25%,3")
	k.shows("", args("get pods -o wide -l app=web"), "NODE", "<none>")
	k.shows("", args("get pods -o yaml --field-selector status.phase=Pending"), "restartPolicy: Always", "kind: Pod")
	if out := k.run("", "", args("get pods -l app=other")...); out != "" {
		t.Errorf("a selector that matches nothing shows %q", out)
	}

	k.shows("", args("describe pod web"), "Name:", "web", "img:1", "Pending")
	k.shows("", args("describe deployment dep"), "RollingUpdate", "25% max unavailable")
	k.shows("", args("describe service svc"), "TargetPort:", "8080/TCP")
	k.shows("", args("describe function fn"), "Image:", "img:1")

	k.shows("", args("scale deployment dep --replicas=5"), "scaled")
	k.shows("", args("get deploy dep -o jsonpath={.spec.replicas}"), "5")
	k.run("", "Expected replicas to be 9, was 5", args("scale deployment dep --replicas=6 --current-replicas=9")...)
	k.shows("", args("label pod web tier=front"), "labeled")
	k.shows("", args("annotate pod web note=x"), "annotated")
	k.shows("", args("get pods -l tier=front --no-headers"), "web")
	k.shows("", []string{"patch", "deployment", "dep", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"name":"A","value":"b"}]}]}}}}`}, "patched")
	k.shows("", []string{"patch", "deployment", "dep", "--type=json", "-p", `[{"op":"replace","path":"/spec/replicas","value":4}]`}, "patched")
	k.shows("", []string{"patch", "fn", "fn", "--type=merge", "-p", `{"spec":{"image":"img:2"}}`}, "patched")
	k.shows("", args("set image deployment/dep c=img:3"), "image updated")
	k.shows("", args("get deploy dep -o jsonpath={.spec.template.spec.containers[0].image},{.spec.template.spec.containers[0].env[0].name},{.spec.replicas}"), "img:3,A,4")
	k.shows("", args("rollout restart deployment dep"), "restarted")

	// These bodies are protobuf.
	k.shows("", args("create deployment made --image=img:1"), "created")
	k.shows("", args("create configmap cm --from-literal=a=b"), "created")
	k.shows("", args("create namespace other"), "created")
	k.shows("", args("create secret generic s2 --from-literal=a=b"), "created")
	k.shows("", args("run runner --image=img:1"), "created")
	k.shows("", args("expose deployment made --port=80"), "exposed")
	k.shows("", args("get cm cm -o jsonpath={.data.a}"), "b")
	k.run("", `namespaces "missing" not found`, args("-n missing create configmap cm --from-literal=a=b")...)

	k.run("", `pods "nothing" not found`, args("get pod nothing")...)
	k.run("", `deployments.apps "made" already exists`, args("create deployment made --image=img:1")...)
	k.run(strings.NewReplacer("replicas: 2", "replicaz: 2", "name: dep}", "name: odd}").Replace(manifest), `strict decoding error: unknown field "spec.replicaz"`, args("create -f -")...)
	k.run(strings.ReplaceAll(manifest, "sec}", "sec, labelz: {}}"), `strict decoding error: unknown field "metadata.labelz"`, args("apply -f -")...)
	k.run("apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: C_, image: i}]}", "spec.containers[0].name: Invalid value", args("create -f -")...)

	k.run("", "does not have a host assigned", args("logs web")...)
	if _, err := api.Mutate(t.Context(), k.objects, api.Pods, "default", "web", api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
		p.Spec.NodeName = "n1"
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	k.shows("", args("logs web --tail=3"), "hello from main tail=3 follow=false")
	k.shows("", args("logs -f web"), "follow=true")

	k.shows("", args("delete service svc"), "deleted")
	k.shows("", args("delete pod web --now --wait=false"), "deleted")
	k.shows("", args("get pod web"), "Terminating")
	k.shows("", args("delete pod web --force --grace-period=0"), "force deleted")
	k.shows("", args("delete deployment --all"), `deployment.apps "dep" deleted`, `"made" deleted`)
	k.shows("", args("wait --for=delete pod/web --timeout=10s"))
	k.shows(manifest, args("delete --ignore-not-found -f -"), "deleted")
	k.shows("", args("create configmap d --from-literal=a=b --dry-run=server"), "created (server dry run)")
	k.run("", `configmaps "d" not found`, args("get cm d")...)
}

func TestKubectlNodesAndMore(t *testing.T) {
	k := newKube(t)
	if _, err := k.objects.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}); err != nil {
		t.Fatal(err)
	}
	k.shows("", args("cordon n1"), "cordoned")
	k.shows("", args("get nodes"), "Unknown,SchedulingDisabled")
	k.shows("", args("describe node n1"), "Unschedulable:", "true")
	k.shows("", args("taint nodes n1 a=b:NoSchedule"), "tainted")
	k.shows("", args("get node n1 -o jsonpath={.spec.taints[0].key}"), "a")
	bound := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bound"},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"i:1"}]}}`
	k.shows(bound, args("create -f -"), "created")
	k.shows("", args("drain n1 --force --grace-period=0 --timeout=30s"), "evicting pod default/bound", "node/n1 drained")
	k.run("", `pods "bound" not found`, args("get pod bound")...)
	k.shows("", args("uncordon n1"), "uncordoned")

	k.shows("", args("cluster-info"), "control plane", "is running at")
	k.shows("", args("get --raw /readyz"), "ok")
	config := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"%"}}`
	k.shows(strings.Replace(config, "%", "1", 1), args("create -f -"), "created")
	k.shows(strings.Replace(config, "%", "2", 1), args("replace -f -"), "replaced")
	k.shows("", args("get cm c -o jsonpath={.data.a}"), "2")
	k.shows(`{"apiVersion":"v1","kind":"List","items":[`+strings.Replace(config, `"c"`, `"d"`, 1)+`]}`, args("apply -f -"), "configmap/d created")

	editor := filepath.Join(k.dir, "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nexec sed -i 's/\"2\"/three/' \"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := k.command(t.Context(), args("edit cm c")...)
	cmd.Env = append(cmd.Env, "EDITOR="+editor)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "edited") {
		t.Errorf("kubectl edit: %v\n%s", err, out)
	}
	k.shows("", args("get cm c -o jsonpath={.data.a}"), "three")

	k.shows("", args("create deployment dep --image=img:1"), "created")
	k.shows("", args("set env deployment/dep A=b"), "env updated")
	k.shows("", args("set resources deployment/dep --limits=cpu=1,memory=64Mi"), "resource requirements updated")
	k.shows("", args("rollout pause deployment/dep"), "paused")
	k.shows("", args("rollout resume deployment/dep"), "resumed")
	k.run("", "spec.template.spec.containers[0].resources.requests: Invalid value", args("set resources deployment/dep --requests=cpu=2")...)
	k.run("", `selector`, "patch", "deployment", "dep", "--type=merge", "-p", `{"spec":{"selector":{"matchLabels":{"app":"other"}}}}`)
	dep, err := k.objects.Get(t.Context(), api.Deployments, "default", "dep")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.objects.Create(t.Context(), &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "e", Namespace: "default"},
		InvolvedObject: corev1.ObjectReference{Kind: "Deployment", Name: "dep", Namespace: "default", UID: dep.GetUID()},
		Reason:         "Scaled", Message: "up to three", Type: "Normal",
	}); err != nil {
		t.Fatal(err)
	}
	k.shows("", args("events"), "up to three")
	k.shows("", args("describe deployment dep"), "up to three")
	k.shows("", args("get events"), "REASON", "deployment/dep")
	k.shows("", args("delete configmap --all"), `configmap "c" deleted`)
}

func TestKubectlNetworkPolicy(t *testing.T) {
	k := newKube(t)
	const policy = `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"deny"},"spec":{"podSelector":{"matchLabels":{"app":"db"}},"egress":[{"ports":[{"port":%s}]}]}}`
	as := func(port string) string { return strings.Replace(policy, "%s", port, 1) }
	k.shows(as("80"), args("apply -f -"), "networkpolicy.networking.k8s.io/deny created")
	k.shows("", args("get netpol"), "NAME", "POD-SELECTOR", "AGE", "deny", "app=db")
	k.shows("", args("get netpol deny -o jsonpath={.spec.policyTypes},{.spec.egress[0].ports[0].protocol},{.metadata.generation}"), `["Ingress","Egress"],TCP,1`)
	k.shows("", args("describe netpol deny"), "isolated for ingress", "To Port: 80/TCP")
	k.shows("", args("label netpol deny a=b"), "labeled")
	k.shows(as("81"), args("apply -f -"), "configured")
	k.shows("", args("get netpol deny -o jsonpath={.metadata.generation}"), "2")
	k.shows("", args("get networkpolicies -A"), "default", "deny")
	k.run(as("0"), "spec.egress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive", args("apply -f -")...)
	k.shows("", args("delete netpol deny"), "deleted")
}

func TestKubectlWatch(t *testing.T) {
	k := newKube(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := k.command(ctx, args("get configmaps -w --output-watch-events")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string) {
		t.Helper()
		if _, err := k.objects.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	create("first")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	want := func(words ...string) {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("kubectl get -w has ended (%v), want %v", lines.Err(), words)
		}
		if got := strings.Fields(lines.Text()); len(got) < 2 || got[0] != words[0] || got[1] != words[1] {
			t.Fatalf("kubectl get -w shows %q, want %v", lines.Text(), words)
		}
	}
	want("EVENT", "NAME")
	want("ADDED", "first")
	create("second")
	want("ADDED", "second")
	if _, err := k.objects.Delete(ctx, api.ConfigMaps, "default", "first", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("DELETED", "first")
	cancel()
	_ = cmd.Wait() // it was killed
}
