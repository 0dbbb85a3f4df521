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
		{api.Pods, `{metadata: {name: p, annotations: {podsnap.dev/network: none}}, spec: {containers: [{name: c, image: i}]}}`},
		{api.Pods, `{metadata: {name: p, annotations: {podsnap.dev/network: bridge}}, spec: {containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 80}]}]}}`},
		{api.ReplicationControllers, `{metadata: {name: x}, spec: {template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`},
		{api.ReplicaSets, `{metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`},
		{api.Deployments, `{metadata: {name: x}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`},
		{api.StatefulSets, stateful(`volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]`, `volumeMounts: [{name: data, mountPath: /data}]`)},
		{api.PersistentVolumeClaims, claim(`storageClassName: fast, selector: {matchLabels: {a: b}}`)},
		{api.PersistentVolumes, volume(`hostPath: {path: /data}`)},
		{api.PersistentVolumes, volume(`local: {path: /data}, nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}`)},
		{api.StorageClasses, `{metadata: {name: x}, provisioner: podsnap.dev/local}`},
		{api.ControllerRevisions, `{metadata: {name: x}, revision: 1, data: {a: b}}`},
		{api.Services, `{metadata: {name: x}, spec: {selector: {a: b}, ports: [{port: 80}]}}`},
		{api.Services, `{metadata: {name: x}, spec: {clusterIP: None}}`},
		{api.Services, `{metadata: {name: x}, spec: {type: ExternalName, externalName: example.org}}`},
		{api.Endpoints, `{metadata: {name: x}, subsets: [{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]}`},
		{api.EndpointSlices, `{metadata: {name: x}, addressType: IPv4, endpoints: [{addresses: [10.0.0.1]}], ports: [{port: 80}]}`},
		{api.NetworkPolicies, `{metadata: {name: x}}`},
		{api.NetworkPolicies, `{metadata: {name: x}, spec: {podSelector: {matchExpressions: [{key: a, operator: Exists}]}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.1/8, except: [10.1.0.0/16, 10.2.0.0/32]}}, {ipBlock: {cidr: "2001:db8::/64"}}, {podSelector: {}, namespaceSelector: {matchLabels: {a: b}}}], ports: [{port: 80, endPort: 90}, {port: dns, protocol: UDP}, {protocol: SCTP}]}]}}`},
		{api.Secrets, `{metadata: {name: x}, stringData: {a: b}}`},
		{api.ConfigMaps, `{metadata: {name: x}, data: {a.b: c}}`},
		{api.Events, `{metadata: {name: x, namespace: d}, involvedObject: {namespace: d}}`},
		{api.Leases, `{metadata: {name: x}, spec: {leaseDurationSeconds: 40}}`},
		{api.Functions, `{metadata: {name: x}, spec: {name: x, image: i}}`},
	} {
		obj := read(t, c.r, c.text)
		if got := causes(t, Admit(t.Context(), "", c.r, nil, obj, "")); got != nil {
			t.Errorf("%s: got %v, want no cause\n%s", c.r.Kind, got, c.text)
		}
		again := obj.DeepCopyObject().(api.Object)
		Default(again)
		if d := cmp.Diff(obj, again); d != "" {
			t.Errorf("%s: defaulting twice differs from once:\n%s", c.r.Kind, d)
		}
		if got := causes(t, Admit(t.Context(), "", c.r, obj, again, "")); got != nil {
			t.Errorf("%s: an unchanged update: got %v, want no cause", c.r.Kind, got)
		}
	}
}

// container makes a pod of one container with fields in YAML's flow form.
func container(fields string) string {
	return "metadata: {name: p}\nspec: {containers: [{name: c, image: i, " + fields + "}]}"
}

func podWith(fields string) string {
	return "metadata: {name: p}\nspec: {containers: [{name: c, image: i}], " + fields + "}"
}

func deployment(fields string) string {
	return "metadata: {name: d}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}, " + fields + "}"
}

// stateful makes a StatefulSet with fields of its spec and of its container.
func stateful(fields, container string) string {
	return "metadata: {name: db}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i, " + container + "}]}}, " + fields + "}"
}

func claim(fields string) string {
	return "metadata: {name: c}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, " + fields + "}"
}

func volume(fields string) string {
	return "metadata: {name: v}\nspec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, " + fields + "}"
}

func policy(fields string) string { return "metadata: {name: p}\nspec: {" + fields + "}" }

func service(fields string) string { return "metadata: {name: s}\nspec: {" + fields + "}" }

func TestInvalid(t *testing.T) {
	for _, c := range []struct {
		name string
		r    *api.Resource
		text string
		want []string
	}{
		{"no container", api.Pods, `{metadata: {name: p}}`, []string{"spec.containers: Required"}},
		{"no image", api.Pods, `{metadata: {name: p}, spec: {containers: [{name: c}]}}`, []string{"spec.containers[0].image: Required"}},
		{"image with a space", api.Pods, `{metadata: {name: p}, spec: {containers: [{name: c, image: " i"}]}}`, []string{"spec.containers[0].image: Invalid"}},
		{"twice the same name", api.Pods, `{metadata: {name: p}, spec: {containers: [{name: c, image: i}], initContainers: [{name: c, image: i}]}}`, []string{"spec.containers[0].name: Duplicate"}},
		{"bad name", api.Pods, `{metadata: {name: p}, spec: {containers: [{name: C_, image: i}]}}`, []string{"spec.containers[0].name: Invalid"}},
		{"restart policy", api.Pods, podWith(`restartPolicy: Sometimes`), []string{"spec.restartPolicy: NotSupported"}},
		{"grace period", api.Pods, podWith(`terminationGracePeriodSeconds: -1`), []string{"spec.terminationGracePeriodSeconds: Invalid"}},
		{"dns", api.Pods, podWith(`dnsPolicy: None`), []string{"spec.dnsConfig.nameservers: Required"}},
		{"hostname", api.Pods, podWith(`hostname: a.b`), []string{"spec.hostname: Invalid"}},
		{"node selector", api.Pods, podWith(`nodeSelector: {"a b": c}`), []string{"spec.nodeSelector: Invalid"}},
		{"toleration", api.Pods, podWith(`tolerations: [{operator: Equal}, {key: a, operator: Maybe}, {key: a, tolerationSeconds: 1}]`), []string{"spec.tolerations[0].operator: Invalid", "spec.tolerations[1].operator: NotSupported", "spec.tolerations[2].effect: Invalid"}},
		{"affinity", api.Pods, podWith(`affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In}]}]}}}`), []string{"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required"}},
		{"spread", api.Pods, podWith(`topologySpreadConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway, minDomains: 0, matchLabelKeys: [a], nodeTaintsPolicy: Maybe}]`), []string{"spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden", "spec.topologySpreadConstraints[0].minDomains: Invalid", "spec.topologySpreadConstraints[0].minDomains: Invalid", "spec.topologySpreadConstraints[0].nodeTaintsPolicy: NotSupported"}},
		{"user", api.Pods, podWith(`securityContext: {runAsUser: -1}`), []string{"spec.securityContext.runAsUser: Invalid"}},
		{"privileged", api.Pods, container(`securityContext: {privileged: true, allowPrivilegeEscalation: false}`), []string{"spec.containers[0].securityContext: Invalid"}},
		{"pull policy", api.Pods, container(`imagePullPolicy: Later`), []string{"spec.containers[0].imagePullPolicy: NotSupported"}},
		{"port 0", api.Pods, container(`ports: [{name: a}]`), []string{"spec.containers[0].ports[0].containerPort: Required"}},
		{"port too high", api.Pods, container(`ports: [{containerPort: 65536}, {containerPort: 1, hostPort: 70000}]`), []string{"spec.containers[0].ports[0].containerPort: Invalid", "spec.containers[0].ports[1].hostPort: Invalid"}},
		{"port names", api.Pods, container(`ports: [{containerPort: 1, name: a}, {containerPort: 2, name: a}, {containerPort: 3, name: A_}]`), []string{"spec.containers[0].ports[1].name: Duplicate", "spec.containers[0].ports[2].name: Invalid", "spec.containers[0].ports[2].name: Invalid"}},
		{"protocol", api.Pods, container(`ports: [{containerPort: 1, protocol: ICMP}]`), []string{"spec.containers[0].ports[0].protocol: NotSupported"}},
		{"host port twice", api.Pods, container(`ports: [{containerPort: 1, hostPort: 9}, {containerPort: 2, hostPort: 9}]`), []string{"spec.containers[0].ports[1].hostPort: Duplicate"}},
		{"env name", api.Pods, container(`env: [{name: "a=b"}, {value: x}]`), []string{"spec.containers[0].env[0].name: Invalid", "spec.containers[0].env[1].name: Required"}},
		{"env source", api.Pods, container(`env: [{name: a, valueFrom: {}}, {name: b, valueFrom: {fieldRef: {fieldPath: spec.x}}}, {name: c, value: v, valueFrom: {secretKeyRef: {name: s, key: k}}}]`), []string{"spec.containers[0].env[0].valueFrom: Required", "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: NotSupported", "spec.containers[0].env[2].valueFrom: Invalid"}},
		{"env key", api.Pods, container(`env: [{name: a, valueFrom: {secretKeyRef: {key: a/b}}}]`), []string{"spec.containers[0].env[0].valueFrom.secretKeyRef.key: Invalid", "spec.containers[0].env[0].valueFrom.secretKeyRef.name: Required"}},
		{"negative quantity", api.Pods, container(`resources: {limits: {cpu: "-1"}}`), []string{"spec.containers[0].resources.limits[cpu]: Invalid", "spec.containers[0].resources.requests[cpu]: Invalid"}},
		{"request over limit", api.Pods, container(`resources: {limits: {memory: 1Mi}, requests: {memory: 2Mi}}`), []string{"spec.containers[0].resources.requests: Invalid"}},
		{"unknown resource", api.Pods, container(`resources: {requests: {disk: 1}}`), []string{"spec.containers[0].resources.requests[disk]: Invalid"}},
		{"mount of nothing", api.Pods, container(`volumeMounts: [{name: v, mountPath: /v}]`), []string{"spec.containers[0].volumeMounts[0].name: NotFound"}},
		{"mounts", api.Pods, "metadata: {name: p}\nspec: {volumes: [{name: v}], containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /v}, {name: v, mountPath: /w, subPath: ../x}, {name: v}]}]}", []string{"spec.containers[0].volumeMounts[1].mountPath: Invalid", "spec.containers[0].volumeMounts[2].subPath: Invalid", "spec.containers[0].volumeMounts[3].mountPath: Required"}},
		{"volumes", api.Pods, podWith(`volumes: [{name: v}, {name: v}, {name: w, emptyDir: {}, secret: {secretName: s}}, {name: x, secret: {}}, {name: "y/z"}]`), []string{"spec.volumes[1].name: Duplicate", "spec.volumes[2].secret: Forbidden", "spec.volumes[3].secret.secretName: Required", "spec.volumes[4].name: Invalid"}},
		{"volume items", api.Pods, podWith(`volumes: [{name: v, secret: {secretName: s, defaultMode: 512, items: [{key: k, path: ../p}, {key: k, path: /p}]}}]`), []string{"spec.volumes[0].secret.defaultMode: Invalid", "spec.volumes[0].secret.items[0].path: Invalid", "spec.volumes[0].secret.items[1].path: Invalid"}},
		{"probe", api.Pods, container(`livenessProbe: {}, readinessProbe: {httpGet: {port: 0}, periodSeconds: -1}, startupProbe: {exec: {command: [x]}, successThreshold: 2}`), []string{"spec.containers[0].livenessProbe: Required", "spec.containers[0].readinessProbe.httpGet.port: Invalid", "spec.containers[0].readinessProbe.periodSeconds: Invalid", "spec.containers[0].startupProbe.successThreshold: Invalid"}},
		{"two handlers", api.Pods, container(`livenessProbe: {exec: {command: [x]}, tcpSocket: {port: 1}}`), []string{"spec.containers[0].livenessProbe.tcpSocket: Forbidden"}},
		{"hook", api.Pods, container(`lifecycle: {preStop: {}}`), []string{"spec.containers[0].lifecycle.preStop: Required"}},

		{"replicas", api.Deployments, deployment(`replicas: -1`), []string{"spec.replicas: Invalid"}},
		{"strategy", api.Deployments, deployment(`strategy: {type: Magic}`), []string{"spec.strategy.type: NotSupported"}},
		{"recreate", api.Deployments, deployment(`strategy: {type: Recreate, rollingUpdate: {}}`), []string{"spec.strategy.rollingUpdate: Forbidden"}},
		{"standstill", api.Deployments, deployment(`strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: "0%"}}`), []string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid"}},
		{"share", api.Deployments, deployment(`strategy: {rollingUpdate: {maxSurge: half, maxUnavailable: "101%"}}`), []string{"spec.strategy.rollingUpdate.maxSurge: Invalid", "spec.strategy.rollingUpdate.maxUnavailable: Invalid"}},
		{"deadline", api.Deployments, deployment(`minReadySeconds: 9, progressDeadlineSeconds: 9`), []string{"spec.progressDeadlineSeconds: Invalid"}},
		{"no selector", api.Deployments, `{metadata: {name: d}, spec: {template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`, []string{"spec.selector: Required"}},
		{"empty selector", api.ReplicaSets, `{metadata: {name: d}, spec: {selector: {}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`, []string{"spec.selector: Invalid"}},
		{"selector beside the labels", api.ReplicaSets, `{metadata: {name: d}, spec: {selector: {matchLabels: {a: c}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`, []string{"spec.template.metadata.labels: Invalid"}},
		{"selector beside the labels", api.ReplicationControllers, `{metadata: {name: d}, spec: {selector: {a: c}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`, []string{"spec.template.metadata.labels: Invalid"}},
		{"no template", api.ReplicationControllers, `{metadata: {name: d}, spec: {selector: {a: c}}}`, []string{"spec.template: Required"}},
		{"template that ends", api.ReplicaSets, `{metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {restartPolicy: Never, activeDeadlineSeconds: 5, containers: [{name: c, image: i}]}}}}`, []string{"spec.template.spec.activeDeadlineSeconds: Forbidden", "spec.template.spec.restartPolicy: NotSupported"}},

		{"no network, and the host's", api.Pods, `{metadata: {name: x, annotations: {podsnap.dev/network: none}}, spec: {hostNetwork: true, containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 80}]}]}}`, []string{"metadata.annotations[podsnap.dev/network]: Forbidden", "metadata.annotations[podsnap.dev/network]: Forbidden"}},
		{"a bridge, and the host's", api.Pods, `{metadata: {name: x, annotations: {podsnap.dev/network: bridge}}, spec: {hostNetwork: true, containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 80}]}]}}`, []string{"metadata.annotations[podsnap.dev/network]: Forbidden"}},
		{"another network", api.Pods, `{metadata: {name: x, annotations: {podsnap.dev/network: macvlan}}, spec: {hostNetwork: true, containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 80}]}]}}`, []string{"metadata.annotations[podsnap.dev/network]: NotSupported", "metadata.annotations[podsnap.dev/network]: Forbidden"}},
		{"functions without a network", api.ReplicaSets, `{metadata: {name: d}, spec: {selector: {matchLabels: {faas_function: b}}, template: {metadata: {labels: {faas_function: b}, annotations: {podsnap.dev/network: none}}, spec: {containers: [{name: c, image: i}]}}}}`, []string{"spec.template.metadata.annotations[podsnap.dev/network]: Forbidden"}},
		{"functions on a bridge", api.ReplicaSets, `{metadata: {name: d}, spec: {selector: {matchLabels: {faas_function: b}}, template: {metadata: {labels: {faas_function: b}, annotations: {podsnap.dev/network: bridge}}, spec: {containers: [{name: c, image: i}]}}}}`, []string{"spec.template.metadata.annotations[podsnap.dev/network]: Forbidden"}},

		{"mirror", api.Pods, `{metadata: {name: x, annotations: {kubernetes.io/config.mirror: h}}, spec: {serviceAccountName: a, imagePullSecrets: [{name: s}], containers: [{name: c, image: i,
			env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}], envFrom: [{configMapRef: {name: m}}]}],
			volumes: [{name: a, secret: {secretName: s}}, {name: b, configMap: {name: m}}, {name: c, persistentVolumeClaim: {claimName: c}}, {name: d, projected: {sources: [{serviceAccountToken: {path: t}}, {downwardAPI: {}}]}}]}}`, []string{
			"spec.containers[0].envFrom[0].configMapRef: Forbidden", "spec.containers[0].env[0].valueFrom.secretKeyRef: Forbidden", "spec.imagePullSecrets: Forbidden",
			"spec.nodeName: Required", "spec.serviceAccountName: Forbidden", "spec.volumes[0].secret: Forbidden", "spec.volumes[1].configMap: Forbidden",
			"spec.volumes[2].persistentVolumeClaim: Forbidden", "spec.volumes[3].projected.sources[0].serviceAccountToken: Forbidden",
		}},

		{"no ports", api.Services, service(``), []string{"spec.ports: Required"}},
		{"service type", api.Services, service(`type: Magic, ports: [{port: 1}]`), []string{"spec.type: NotSupported"}},
		{"service ports", api.Services, service(`ports: [{port: 1}, {port: 0, name: a}, {port: 70000, name: a, targetPort: -1}]`), []string{"spec.ports[0].name: Required", "spec.ports[1].port: Invalid", "spec.ports[1].targetPort: Invalid", "spec.ports[2].name: Duplicate", "spec.ports[2].port: Invalid", "spec.ports[2].targetPort: Invalid"}},
		{"port twice", api.Services, service(`ports: [{port: 1, name: a}, {port: 1, name: b}]`), []string{"spec.ports[1]: Duplicate"}},
		{"cluster IP", api.Services, service(`clusterIP: here, ports: [{port: 1}]`), []string{"spec.clusterIP: Invalid"}},
		{"source ranges", api.Services, service(`type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.1], ports: [{port: 1}]`), []string{"spec.loadBalancerSourceRanges[0]: Invalid"}},
		{"source ranges without a load balancer", api.Services, service(`loadBalancerSourceRanges: [10.0.0.0/8], ports: [{port: 1}]`), []string{"spec.loadBalancerSourceRanges: Forbidden"}},
		{"node port", api.Services, service(`ports: [{port: 1, nodePort: 30000}]`), []string{"spec.ports[0].nodePort: Forbidden"}},
		{"external name", api.Services, service(`type: ExternalName`), []string{"spec.externalName: Required"}},
		{"affinity of sessions", api.Services, service(`sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}, ports: [{port: 1}]`), []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid"}},

		{"ingress of nothing", api.Ingresses, `{metadata: {name: x}, spec: {}}`, []string{"spec: Invalid"}},
		{"ingress backend", api.Ingresses, `{metadata: {name: x}, spec: {defaultBackend: {}, rules: [{http: {paths: []}}, {http: {paths: [
			{pathType: Exact, path: /a, backend: {service: {name: A, port: {}}}},
			{pathType: Exact, path: /a, backend: {service: {port: {name: a, number: 1}}}},
			{pathType: Exact, path: /a, backend: {service: {name: s, port: {number: 70000}}}},
			{pathType: Exact, path: /a, backend: {resource: {kind: B, name: b}}}]}}]}}`, []string{
			"spec.defaultBackend: Invalid", "spec.rules[0].http.paths: Required",
			"spec.rules[1].http.paths[0].backend.service.name: Invalid", "spec.rules[1].http.paths[0].backend.service.port: Required",
			"spec.rules[1].http.paths[1].backend.service.name: Required", "spec.rules[1].http.paths[1].backend.service.port: Invalid",
			"spec.rules[1].http.paths[2].backend.service.port.number: Invalid", "spec.rules[1].http.paths[3].backend.resource: Forbidden",
		}},
		{"ingress paths", api.Ingresses, `{metadata: {name: x}, spec: {rules: [{http: {paths: [
			{path: /a, backend: {service: {name: s, port: {number: 1}}}},
			{pathType: Prefix, path: a, backend: {service: {name: s, port: {number: 1}}}},
			{pathType: Exact, path: /a//b/.., backend: {service: {name: s, port: {number: 1}}}},
			{pathType: ImplementationSpecific, backend: {service: {name: s, port: {number: 1}}}},
			{pathType: Regex, path: /a, backend: {service: {name: s, port: {number: 1}}}}]}}]}}`, []string{
			"spec.rules[0].http.paths[0].pathType: Required", "spec.rules[0].http.paths[1].path: Invalid",
			"spec.rules[0].http.paths[2].path: Invalid", "spec.rules[0].http.paths[2].path: Invalid", "spec.rules[0].http.paths[4].pathType: NotSupported",
		}},
		{"ingress hosts", api.Ingresses, `{metadata: {name: x, annotations: {kubernetes.io/ingress.class: podsnap}}, spec: {ingressClassName: A_, tls: [{hosts: [a_b, "*.b.c"], secretName: S}], rules: [{host: 10.0.0.1}, {host: "a.*.b"}, {host: "*.b"}]}}`, []string{
			"metadata.annotations[kubernetes.io/ingress.class]: Invalid", "spec.ingressClassName: Invalid", "spec.rules[0].host: Invalid", "spec.rules[1].host: Invalid",
			"spec.tls[0].hosts[0]: Invalid", "spec.tls[0].secretName: Invalid",
		}},
		{"ingress class", api.IngressClasses, `{metadata: {name: x}, spec: {controller: nobody, parameters: {}}}`, []string{"spec.controller: Invalid", "spec.parameters.kind: Required", "spec.parameters.name: Required"}},
		{"address", api.Endpoints, `{metadata: {name: x}, subsets: [{addresses: [{ip: here}]}, {}]}`, []string{"subsets[0].addresses[0].ip: Invalid", "subsets[1]: Required"}},
		{"slice", api.EndpointSlices, `{metadata: {name: x}, addressType: IPv9, endpoints: [{addresses: []}], ports: [{port: 0}]}`, []string{"addressType: NotSupported", "endpoints[0].addresses: Required", "ports[0].port: Invalid"}},
		{"policy's types", api.NetworkPolicies, policy(`policyTypes: [Ingress, Sideways, ""]`), []string{"spec.policyTypes: Invalid"}},
		{"policy's type", api.NetworkPolicies, policy(`policyTypes: [Sideways]`), []string{"spec.policyTypes[0]: NotSupported"}},
		{"policy's selector", api.NetworkPolicies, policy(`podSelector: {matchExpressions: [{key: a, operator: In}]}`), []string{"spec.podSelector.matchExpressions[0].values: Required"}},
		{"policy's ports", api.NetworkPolicies, policy(`ingress: [{ports: [{port: 0}, {port: "no name"}, {protocol: ICMP}, {endPort: 1}, {port: a, endPort: 1}, {port: 9, endPort: 8}, {port: 9, endPort: 70000}]}]`), []string{
			"spec.ingress[0].ports[0].port: Invalid", "spec.ingress[0].ports[1].port: Invalid", "spec.ingress[0].ports[2].protocol: NotSupported",
			"spec.ingress[0].ports[3].endPort: Invalid", "spec.ingress[0].ports[4].endPort: Invalid", "spec.ingress[0].ports[5].endPort: Invalid", "spec.ingress[0].ports[6].endPort: Invalid",
		}},
		{"policy's peers", api.NetworkPolicies, policy(`egress: [{to: [{}, {ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}, {namespaceSelector: {matchLabels: {"a b": c}}}]}]`), []string{
			"spec.egress[0].to[0]: Required", "spec.egress[0].to[1]: Forbidden", "spec.egress[0].to[2].namespaceSelector.matchLabels: Invalid",
		}},
		{"policy's blocks", api.NetworkPolicies, policy(`egress: [{to: [{ipBlock: {cidr: ""}}, {ipBlock: {cidr: 10.0.0.0}}, {ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16, 10.0.0.0/8, here, 010.1.0.0/16]}}]}]`), []string{
			"spec.egress[0].to[0].ipBlock.cidr: Required", "spec.egress[0].to[1].ipBlock.cidr: Invalid", "spec.egress[0].to[2].ipBlock.except[0]: Invalid",
			"spec.egress[0].to[2].ipBlock.except[1]: Invalid", "spec.egress[0].to[2].ipBlock.except[2]: Invalid", "spec.egress[0].to[2].ipBlock.except[3]: Invalid",
		}},
		{"secret key", api.Secrets, `{metadata: {name: x}, stringData: {etc/passwd: x, ..: y}}`, []string{"data[..]: Invalid", "data[etc/passwd]: Invalid"}},
		{"secret type", api.Secrets, `{metadata: {name: x}, type: kubernetes.io/dockerconfigjson, stringData: {.dockerconfigjson: "{"}}`, []string{"data[.dockerconfigjson]: Invalid"}},
		{"tls", api.Secrets, `{metadata: {name: x}, type: kubernetes.io/tls}`, []string{"data[tls.crt]: Required", "data[tls.key]: Required"}},
		{"config key", api.ConfigMaps, `{metadata: {name: x}, data: {"a/b": x, c: d}, binaryData: {c: YQ==}}`, []string{"data[a/b]: Invalid", "data[c]: Invalid"}},
		{"big secret", api.Secrets, `{metadata: {name: x}, stringData: {a: "` + strings.Repeat("x", 1<<20+1) + `"}}`, []string{"data: TooLong"}},
		{"event elsewhere", api.Events, `{metadata: {name: x, namespace: d}, involvedObject: {namespace: e}}`, []string{"involvedObject.namespace: Invalid"}},
		{"lease", api.Leases, `{metadata: {name: x}, spec: {leaseDurationSeconds: 0}}`, []string{"spec.leaseDurationSeconds: Invalid"}},
		{"taint", api.Nodes, `{metadata: {name: x}, spec: {taints: [{key: a, effect: Never}, {key: b, effect: NoSchedule}, {key: b, value: c, effect: NoSchedule}]}}`, []string{"spec.taints[0].effect: NotSupported", "spec.taints[2]: Duplicate"}},
		{"ports for functions", api.Nodes, `{metadata: {name: x, annotations: {podsnap.dev/function-ports: 5432/icmp}}}`, []string{"metadata.annotations[podsnap.dev/function-ports]: Invalid"}},
		{"pod network", api.Nodes, `{metadata: {name: x}, spec: {podCIDRs: [10.0.0.1]}}`, []string{"spec.podCIDRs[0]: Invalid"}},
		{"function", api.Functions, `{metadata: {name: x}, spec: {name: x}}`, []string{"spec.image: Required"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := causes(t, Admit(t.Context(), "", c.r, nil, read(t, c.r, c.text), ""))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("causes (-want +got):\n%s", d)
			}
		})
	}
}

func TestUpdates(t *testing.T) {
	for _, c := range []struct {
		name     string
		r        *api.Resource
		old, now string
		want     []string
	}{
		{"image of a pod", api.Pods, container(`command: [a]`), strings.Replace(container(`command: [a]`), "image: i", "image: j", 1), nil},
		{"command of a pod", api.Pods, container(`command: [a]`), container(`command: [b]`), []string{"spec.containers: Forbidden"}},
		{"another container", api.Pods, podWith(``), `{metadata: {name: p}, spec: {containers: [{name: c, image: i}, {name: d, image: i}]}}`, []string{"spec.containers: Forbidden"}},
		{"binding", api.Pods, podWith(``), podWith(`nodeName: n`), nil},
		{"moving", api.Pods, podWith(`nodeName: n`), podWith(`nodeName: m`), []string{"spec.nodeName: Forbidden"}},
		{"leaving", api.Pods, podWith(`nodeName: n`), podWith(``), []string{"spec.nodeName: Forbidden"}},
		{"new toleration", api.Pods, podWith(`tolerations: [{key: a}]`), podWith(`tolerations: [{key: a}, {key: b}]`), nil},
		{"lost toleration", api.Pods, podWith(`tolerations: [{key: a}]`), podWith(``), []string{"spec.tolerations: Forbidden"}},
		{"shorter deadline", api.Pods, podWith(`activeDeadlineSeconds: 9`), podWith(`activeDeadlineSeconds: 8`), nil},
		{"longer deadline", api.Pods, podWith(`activeDeadlineSeconds: 9`), podWith(`activeDeadlineSeconds: 10`), []string{"spec.activeDeadlineSeconds: Forbidden"}},
		{"host network", api.Pods, podWith(``), podWith(`hostNetwork: true`), []string{"spec.hostNetwork: Forbidden"}},
		{"becomes a mirror", api.Pods, podWith(`nodeName: n`), `{metadata: {name: p, annotations: {kubernetes.io/config.mirror: h}}, spec: {nodeName: n, serviceAccountName: "", containers: [{name: c, image: i}]}}`, []string{"metadata.annotations[kubernetes.io/config.mirror]: Forbidden"}},
		{"template of a deployment", api.Deployments, deployment(``), strings.Replace(deployment(``), "image: i", "image: j", 1), nil},
		{"selector", api.Deployments, deployment(``), strings.ReplaceAll(deployment(``), "a: b", "a: c"), []string{"spec.selector: Invalid"}},
		{"cluster IP", api.Services, service(`clusterIP: 10.0.0.1, ports: [{port: 1}]`), service(`clusterIP: 10.0.0.2, ports: [{port: 1}]`), []string{"spec.clusterIP: Invalid"}},
		{"controller of a class", api.IngressClasses, `{metadata: {name: x}, spec: {controller: a.b/c}}`, `{metadata: {name: x}, spec: {controller: a.b/d}}`, []string{"spec.controller: Invalid"}},
		{"cluster IP left away", api.Services, service(`clusterIP: 10.0.0.1, ports: [{port: 1}]`), service(`ports: [{port: 2}]`), nil},
		{"cluster IP given", api.Services, service(`ports: [{port: 1}]`), service(`clusterIP: 10.0.0.2, ports: [{port: 1}]`), nil},
		{"secret's type", api.Secrets, `{metadata: {name: s}}`, `{metadata: {name: s}, type: other/type}`, []string{"type: Invalid"}},
		{"immutable secret", api.Secrets, `{metadata: {name: s}, immutable: true, stringData: {a: b}}`, `{metadata: {name: s}, stringData: {a: c}}`, []string{"data: Forbidden", "immutable: Forbidden"}},
		{"labels of an immutable secret", api.Secrets, `{metadata: {name: s}, immutable: true, stringData: {a: b}}`, `{metadata: {name: s, labels: {a: b}}, immutable: true, stringData: {a: b}}`, nil},
		{"immutable config", api.ConfigMaps, `{metadata: {name: s}, immutable: true, data: {a: b}}`, `{metadata: {name: s}, immutable: true}`, []string{"data: Forbidden"}},
		{"pod network", api.Nodes, `{metadata: {name: n}, spec: {podCIDR: 10.0.0.0/24}}`, `{metadata: {name: n}, spec: {podCIDR: 10.0.1.0/24}}`, []string{"spec.podCIDR: Forbidden"}},
		{"pod network left away", api.Nodes, `{metadata: {name: n}, spec: {podCIDR: 10.0.0.0/24}}`, `{metadata: {name: n}}`, nil},
		{"a fault of old", api.Pods, podWith(`hostname: a.b`), "metadata: {name: p, labels: {a: b}}\nspec: {hostname: a.b, containers: [{name: c, image: i}]}", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			old, now := read(t, c.r, c.old), read(t, c.r, c.now)
			Default(old)
			got := causes(t, Admit(t.Context(), "", c.r, old, now, ""))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("causes (-want +got):\n%s", d)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	for _, c := range []struct {
		name       string
		r          *api.Resource
		text, want string
	}{
		{"pod", api.Pods, container(`ports: [{containerPort: 80}], resources: {limits: {cpu: 1}}, readinessProbe: {httpGet: {port: 80}}`), `
metadata: {name: p}
spec:
  containers:
  - name: c
    image: i
    imagePullPolicy: Always
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
    ports: [{containerPort: 80, protocol: TCP}]
    resources: {limits: {cpu: 1}, requests: {cpu: 1}}
    readinessProbe: {httpGet: {port: 80, path: /, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {}
  terminationGracePeriodSeconds: 30
status: {phase: Pending}
`},
		{"volumes", api.Pods, podWith(`volumes: [{name: a}, {name: b, secret: {secretName: s}}], hostNetwork: true, serviceAccountName: x`), `
metadata: {name: p}
spec:
  containers: [{name: c, image: i, imagePullPolicy: Always, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}]
  volumes: [{name: a, emptyDir: {}}, {name: b, secret: {secretName: s, defaultMode: 420}}]
  hostNetwork: true
  serviceAccountName: x
  serviceAccount: x
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {}
  terminationGracePeriodSeconds: 30
status: {phase: Pending}
`},
		{"policy", api.NetworkPolicies, policy(`ingress: [{ports: [{port: 80}]}]`), `
metadata: {name: p}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 80, protocol: TCP}]}]}
`},
		{"policy of both directions", api.NetworkPolicies, policy(`egress: [{}]`), `
metadata: {name: p}
spec: {podSelector: {}, policyTypes: [Ingress, Egress], egress: [{}]}
`},
		{"policy of one direction", api.NetworkPolicies, policy(`policyTypes: [Egress]`), `
metadata: {name: p}
spec: {podSelector: {}, policyTypes: [Egress]}
`},
		{"deployment", api.Deployments, deployment(``), `
metadata: {name: d}
spec:
  replicas: 1
  revisionHistoryLimit: 10
  progressDeadlineSeconds: 600
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 25%}}
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      containers: [{name: c, image: i, imagePullPolicy: Always, terminationMessagePath: /dev/termination-log, terminationMessagePolicy: File}]
      dnsPolicy: ClusterFirst
      restartPolicy: Always
      schedulerName: default-scheduler
      securityContext: {}
      terminationGracePeriodSeconds: 30
`},
		{"service", api.Services, service(`ports: [{port: 80}, {port: 81, targetPort: web, name: x}]`), `
metadata: {name: s}
spec:
  type: ClusterIP
  sessionAffinity: None
  internalTrafficPolicy: Cluster
  ports: [{port: 80, protocol: TCP, targetPort: 80}, {port: 81, name: x, protocol: TCP, targetPort: web}]
`},
		{"secret", api.Secrets, `{metadata: {name: s}, stringData: {a: b}}`, `{metadata: {name: s}, type: Opaque, data: {a: Yg==}}`},
		{"namespace", api.Namespaces, `{metadata: {name: n}}`, `{metadata: {name: n, labels: {kubernetes.io/metadata.name: n}}, status: {phase: Active}}`},
		{"node", api.Nodes, `{metadata: {name: n}, status: {capacity: {cpu: 2}}}`, `{metadata: {name: n}, status: {capacity: {cpu: 2}, allocatable: {cpu: 2}}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := read(t, c.r, c.text)
			Default(got)
			if d := cmp.Diff(read(t, c.r, c.want), got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]string{
		"a": "Always", "a:latest": "Always", "r:5000/a": "Always", "r:5000/a:1": "IfNotPresent", "a:1": "IfNotPresent",
		"a@sha256:0": "IfNotPresent", "a:latest@sha256:0": "IfNotPresent",
	} {
		if got := string(pullPolicy(image)); got != want {
			t.Errorf("%s: got %s, want %s", image, got, want)
		}
	}
}
