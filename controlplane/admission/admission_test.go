package admission

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/yaml"

	"github.com/podsnap/podsnap/api"
)

// read makes an object of YAML; unknown fields fail, so that a typo in a test
// does not make it pass.
func read(t *testing.T, r *api.Resource, text string) api.Object {
	t.Helper()
	obj := r.New()
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(text, "\t", "  ")), obj); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return obj
}

// causes lists what Admit found: "field: type", in order.
func causes(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	s, ok := err.(apierrors.APIStatus)
	if !ok || s.Status().Code != 422 || s.Status().Details == nil {
		t.Fatalf("got %v, want an Invalid status with causes", err)
	}
	var out []string
	for _, c := range s.Status().Details.Causes {
		out = append(out, c.Field+": "+strings.TrimPrefix(string(c.Type), "FieldValue"))
	}
	return out
}

const pod = `
metadata: {name: p, namespace: d}
spec:
  containers:
  - name: c
    image: img:1
`

func TestValidPasses(t *testing.T) {
	for _, c := range []struct {
		r    *api.Resource
		text string
	}{
		{api.Namespaces, `metadata: {name: n}`},
		{api.Nodes, `{metadata: {name: n}, spec: {taints: [{key: a/b, effect: NoSchedule}]}, status: {capacity: {cpu: "2"}}}`},
		{api.Pods, pod},
		{api.Pods, pod + `
    env: [{name: A, value: b}, {name: N, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: L, valueFrom: {fieldRef: {fieldPath: "metadata.labels['x']"}}}]
    ports: [{containerPort: 80, name: http}, {containerPort: 80, protocol: UDP}]
    resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 500m, example.com/gpu: 1}}
    volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /w, subPath: a/b}]
    livenessProbe: {httpGet: {port: http}}
    lifecycle: {preStop: {exec: {command: [x]}}}
  volumes: [{name: v}]
  tolerations: [{operator: Exists}, {key: a, effect: NoExecute, tolerationSeconds: 3}]
`},
		{api.ReplicationControllers, `{metadata: {name: x}, spec: {template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`},
		{api.ReplicaSets, `{metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`},
		{api.Deployments, `{metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`},
		{api.Services, `{metadata: {name: x}, spec: {selector: {a: b}, ports: [{port: 80}]}}`},
		{api.Services, `{metadata: {name: x}, spec: {clusterIP: None}}`},
		{api.Services, `{metadata: {name: x}, spec: {type: ExternalName, externalName: example.org}}`},
		{api.Endpoints, `{metadata: {name: x}, subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]}`},
		{api.EndpointSlices, `{metadata: {name: x}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{port: 80}]}`},
		{api.Secrets, `{metadata: {name: x}, stringData: {a: b}}`},
		{api.ConfigMaps, `{metadata: {name: x}, data: {a.b: c}}`},
		{api.Events, `{metadata: {name: x, namespace: d}, involvedObject: {namespace: d}}`},
		{api.Leases, `{metadata: {name: x}, spec: {leaseDurationSeconds: 40}}`},
		{api.Functions, `{metadata: {name: x}, spec: {name: x, image: i}}`},
	} {
		obj := read(t, c.r, c.text)
		if got := causes(t, Admission{}.Admit(t.Context(), "", c.r, nil, obj, "")); got != nil {
			t.Errorf("%s: got %v, want no cause\n%s", c.r.Kind, got, c.text)
		}
		again := obj.DeepCopyObject().(api.Object)
		Admission{}.Default(again)
		if d := cmp.Diff(obj, again); d != "" {
			t.Errorf("%s: defaulting twice differs from once:\n%s", c.r.Kind, d)
		}
		if got := causes(t, Admission{}.Admit(t.Context(), "", c.r, obj, again, "")); got != nil {
			t.Errorf("%s: an unchanged update: got %v, want no cause", c.r.Kind, got)
		}
	}
}
