package apiserver

import (
	"strings"
	"testing"
)

func TestKubectlExplain(t *testing.T) {
	k := newKube(t)
	k.shows("", args("explain pod.spec.containers"), "FIELD: containers <[]Container>", "List of containers belonging to the pod", "image\t<string>", "-required-", "imagePullPolicy", "enum: Always, IfNotPresent, Never")
	k.shows("", args("explain deployment --recursive"), "GROUP:      apps", "KIND:       Deployment", "terminationMessagePath\t<string>", "maxSurge\t<IntOrString>", "-required-")
	k.shows("", args("explain function.spec"), "openfaas.com", "readOnlyRootFilesystem\t<boolean>", "image\t<string>")
	k.shows("", args("explain networkpolicy.spec.ingress.ports.port"), "IntOrString")
	k.shows("", args("explain pod.spec.containers.resources.limits"), "map[string]Quantity")
	k.shows("", args("explain pods --output=plaintext-openapiv2"), "KIND:     Pod", "spec\t<Object>")
	k.run("", `field "nonsense" does not exist`, args("explain pod.spec.nonsense")...)
}

func TestKubectlApply(t *testing.T) {
	k := newKube(t)
	dep := func(more string) string { return deployment(more) }

	// On the server's side, with a conflict.
	k.shows(dep("  replicas: 2\n"), args("apply --server-side -f -"), "deployment.apps/dep serverside-applied")
	k.run(dep("  replicas: 3\n"), `conflict with "kubectl": .spec.replicas`, args("apply --server-side --field-manager=other -f -")...)
	k.shows(dep("  replicas: 3\n"), args("apply --server-side --field-manager=other --force-conflicts -f -"), "serverside-applied")
	k.shows("", args("get deploy dep -o yaml --show-managed-fields"), "manager: kubectl", "manager: other", "operation: Apply", "f:replicas: {}")
	if out := k.run("", "", args("get deploy dep -o yaml")...); strings.Contains(out, "managedFields") {
		t.Errorf("without --show-managed-fields there are some:\n%s", out)
	}

	// On the client's, and over to the server's.
	const cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {a: b, c: d}\n"
	k.shows(cm, args("apply -f -"), "configmap/cm created")
	k.shows("", args("apply view-last-applied configmap/cm"), "a: b", "c: d")
	k.shows(strings.Replace(cm, ", c: d", "", 1), args("apply --server-side -f -"), "configmap/cm serverside-applied")
	if out := k.run("", "", args("get cm cm -o jsonpath={.data}")...); out != `{"a":"b"}` {
		t.Errorf("after the change of sides there is %s", out)
	}

	// What an apply would do.
	out, err := k.diff(dep("  replicas: 3\n  minReadySeconds: 5\n"), args("diff --server-side --force-conflicts -f -")...)
	if err == nil || !strings.Contains(out, "+  minReadySeconds: 5") || strings.Contains(out, "-  replicas") {
		t.Errorf("kubectl diff shows (%v)\n%s", err, out)
	}
	out, err = k.diff(strings.Replace(cm, "a: b", "a: z", 1), args("diff -f -")...)
	if err == nil || !strings.Contains(out, "+  a: z") {
		t.Errorf("kubectl diff shows (%v)\n%s", err, out)
	}
	k.shows(cm, args("apply --dry-run=server -f -"), "configmap/cm configured (server dry run)")
	k.shows("", args("delete cm cm --dry-run=server"), "deleted (server dry run)")
	k.shows("", args("scale deployment dep --replicas=9 --dry-run=server"), "scaled (server dry run)")
	k.shows("", args("get cm/cm deploy/dep -o jsonpath={.items[*].data}{.items[*].spec.replicas}"), `{"a":"b"}3`)
}

// diff runs kubectl where its end is an answer.
func (k *kube) diff(stdin string, args ...string) (string, error) {
	k.Helper()
	cmd := k.command(k.Context(), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
