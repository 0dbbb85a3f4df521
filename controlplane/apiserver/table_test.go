package apiserver

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/podsnap/podsnap/api"
)

// row is an object's cells, each with its column's name.
func row(t *testing.T, r *api.Resource, text string, wide bool) string {
	t.Helper()
	obj := r.New()
	if err := yaml.UnmarshalStrict([]byte(text), obj); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	obj.SetCreationTimestamp(metav1.NewTime(now.Add(-90 * time.Minute)))
	var out []string
	for _, c := range columnsOf(r) {
		if c.Priority == 0 || wide {
			out = append(out, fmt.Sprintf("%s=%v", c.Name, c.cell(obj, now)))
		}
	}
	return strings.Join(out, " ")
}

func TestColumns(t *testing.T) {
	const spec = "metadata: {name: p}\nspec: {nodeName: n1, containers: [{name: a, image: i}, {name: b, image: j}]}\n"
	for _, c := range []struct {
		name string
		r    *api.Resource
		text string
		wide bool
		want string
	}{
		{"new pod", api.Pods, spec + "status: {phase: Pending}", false, "Name=p Ready=0/2 Status=Pending Restarts=0 Age=90m"},
		{"running pod", api.Pods, spec + `status: {phase: Running, podIP: 10.0.0.1, containerStatuses: [{name: a, ready: true, restartCount: 2, lastState: {terminated: {finishedAt: "2026-01-01T11:58:00Z"}}, state: {running: {}}}, {name: b, state: {waiting: {reason: CrashLoopBackOff}}}]}`, true, "Name=p Ready=1/2 Status=CrashLoopBackOff Restarts=2 (2m ago) Age=90m IP=10.0.0.1 Node=n1 Nominated Node=<none> Readiness Gates=<none>"},
		{"pod that ends", api.Pods, `{metadata: {name: p, deletionTimestamp: "2026-01-01T11:58:00Z"}, status: {phase: Running}}`, false, "Name=p Ready=0/0 Status=Terminating Restarts=0 Age=90m"},
		{"pod that was killed", api.Pods, spec + `status: {phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 137, reason: OOMKilled}}}]}`, false, "Name=p Ready=0/2 Status=OOMKilled Restarts=0 Age=90m"},
		{"pod that failed without reason", api.Pods, spec + `status: {phase: Failed, containerStatuses: [{name: a, state: {terminated: {exitCode: 3}}}]}`, false, "Name=p Ready=0/2 Status=ExitCode:3 Restarts=0 Age=90m"},
		{"pod in its init containers", api.Pods, `{metadata: {name: p}, spec: {initContainers: [{name: x}, {name: y}]}, status: {phase: Pending, initContainerStatuses: [{name: x, state: {terminated: {exitCode: 0}}}, {name: y, state: {running: {}}}]}}`, false, "Name=p Ready=0/0 Status=Init:1/2 Restarts=0 Age=90m"},
		{"evicted pod", api.Pods, `{metadata: {name: p}, status: {phase: Failed, reason: Evicted}}`, false, "Name=p Ready=0/0 Status=Evicted Restarts=0 Age=90m"},
		{"node", api.Nodes, `{metadata: {name: n1, labels: {node-role.kubernetes.io/worker: "", node-role.kubernetes.io/edge: ""}}, spec: {unschedulable: true}, status: {conditions: [{type: Ready, status: "True"}], addresses: [{type: InternalIP, address: 10.0.0.2}], nodeInfo: {kubeletVersion: v1, kernelVersion: "6.1"}}}`, true, "Name=n1 Status=Ready,SchedulingDisabled Roles=edge,worker Age=90m Version=v1 Internal-IP=10.0.0.2 External-IP=<none> OS-Image=<unknown> Kernel-Version=6.1 Container-Runtime=<unknown>"},
		{"node that is lost", api.Nodes, `{metadata: {name: n1}, status: {conditions: [{type: Ready, status: Unknown}]}}`, false, "Name=n1 Status=NotReady Roles=<none> Age=90m Version="},
		{"namespace", api.Namespaces, `{metadata: {name: n1}, status: {phase: Terminating}}`, false, "Name=n1 Status=Terminating Age=90m"},
		{"deployment", api.Deployments, `{metadata: {name: d}, spec: {replicas: 3, selector: {matchLabels: {a: b}}, template: {spec: {containers: [{name: c, image: i}, {name: e, image: j}]}}}, status: {readyReplicas: 1, updatedReplicas: 2, availableReplicas: 1}}`, true, "Name=d Ready=1/3 Up-to-date=2 Available=1 Age=90m Containers=c,e Images=i,j Selector=a=b"},
		{"replica set", api.ReplicaSets, `{metadata: {name: d}, spec: {replicas: 3}, status: {replicas: 2, readyReplicas: 1}}`, false, "Name=d Desired=3 Current=2 Ready=1 Age=90m"},
		{"replication controller", api.ReplicationControllers, `{metadata: {name: d}, spec: {selector: {a: b}}}`, true, "Name=d Desired=1 Current=0 Ready=0 Age=90m Containers= Images= Selector=a=b"},
		{"service", api.Services, `{metadata: {name: s}, spec: {type: NodePort, clusterIP: 10.0.0.1, ports: [{port: 80, nodePort: 30080, protocol: TCP}, {port: 53, protocol: UDP}]}}`, true, "Name=s Type=NodePort Cluster-IP=10.0.0.1 External-IP=<none> Port(s)=80:30080/TCP,53/UDP Age=90m Selector=<none>"},
		{"balanced service", api.Services, `{metadata: {name: s}, spec: {type: LoadBalancer}}`, false, "Name=s Type=LoadBalancer Cluster-IP=<none> External-IP=<pending> Port(s)=<none> Age=90m"},
		{"endpoints", api.Endpoints, `{metadata: {name: s}, subsets: [{addresses: [{ip: 10.0.0.1}, {ip: 10.0.0.2}], ports: [{port: 1}, {port: 2}]}]}`, false, "Name=s Endpoints=10.0.0.1:1,10.0.0.1:2,10.0.0.2:1 + 1 more... Age=90m"},
		{"slice", api.EndpointSlices, `{metadata: {name: s}, addressType: IPv4, ports: [{port: 80}], endpoints: [{addresses: [10.0.0.1]}]}`, false, "Name=s AddressType=IPv4 Ports=80 Endpoints=10.0.0.1 Age=90m"},
		{"ingress", api.Ingresses, `{metadata: {name: i}, spec: {ingressClassName: podsnap, tls: [{secretName: s}], rules: [{host: a.b}, {host: a.b}, {host: c.d}, {host: e.f}, {host: g.h}]}, status: {loadBalancer: {ingress: [{ip: 10.0.0.1}, {ip: 10.0.0.2}]}}}`, false, "Name=i Class=podsnap Hosts=a.b,c.d,e.f + 1 more... Address=10.0.0.1,10.0.0.2 Ports=80, 443 Age=90m"},
		{"ingress of all hosts", api.Ingresses, `{metadata: {name: i, annotations: {kubernetes.io/ingress.class: nginx}}, spec: {rules: [{http: {}}]}}`, false, "Name=i Class=nginx Hosts=* Address= Ports=80 Age=90m"},
		{"ingress class", api.IngressClasses, `{metadata: {name: c}, spec: {controller: a.b/c, parameters: {apiGroup: a.b, kind: K, name: big}}}`, false, "Name=c Controller=a.b/c Parameters=K.a.b/big Age=90m"},
		{"policy", api.NetworkPolicies, `{metadata: {name: s}, spec: {podSelector: {matchLabels: {a: b}, matchExpressions: [{key: c, operator: Exists}]}}}`, false, "Name=s Pod-Selector=a=b,c Age=90m"},
		{"policy for all", api.NetworkPolicies, `{metadata: {name: s}}`, false, "Name=s Pod-Selector=<none> Age=90m"},
		{"secret", api.Secrets, `{metadata: {name: s}, type: Opaque, data: {a: Yg==}}`, false, "Name=s Type=Opaque Data=1 Age=90m"},
		{"config map", api.ConfigMaps, `{metadata: {name: s}, data: {a: b}, binaryData: {c: Yg==}}`, false, "Name=s Data=2 Age=90m"},
		{"lease", api.Leases, `{metadata: {name: s}, spec: {holderIdentity: me}}`, false, "Name=s Holder=me Age=90m"},
		{"event", api.Events, `{metadata: {name: e}, lastTimestamp: "2026-01-01T11:59:30Z", type: Warning, reason: Failed, message: "no such image\n", count: 3, involvedObject: {kind: Pod, name: p}}`, true, "Last Seen=30s Type=Warning Reason=Failed Object=pod/p Subobject= Source= Message=no such image Count=3 Name=e"},
		{"new job", api.Jobs, `{metadata: {name: j}, spec: {parallelism: 3}}`, false, "Name=j Status=Running Completions=0/1 of 3 Duration= Age=90m"},
		{"job that runs", api.Jobs, `{metadata: {name: j}, spec: {completions: 3, selector: {matchLabels: {a: b}}, template: {spec: {containers: [{name: c, image: i}]}}}, status: {succeeded: 1, startTime: "2026-01-01T11:58:00Z"}}`, true, "Name=j Status=Running Completions=1/3 Duration=2m Age=90m Containers=c Images=i Selector=a=b"},
		{"job that is complete", api.Jobs, `{metadata: {name: j}, spec: {completions: 1}, status: {succeeded: 1, startTime: "2026-01-01T11:00:00Z", completionTime: "2026-01-01T11:00:07Z", conditions: [{type: SuccessCriteriaMet, status: "True"}, {type: Complete, status: "True"}]}}`, false, "Name=j Status=Complete Completions=1/1 Duration=7s Age=90m"},
		{"job that has failed", api.Jobs, `{metadata: {name: j}, spec: {completions: 1}, status: {startTime: "2026-01-01T11:00:00Z", conditions: [{type: Failed, status: "True", lastTransitionTime: "2026-01-01T11:00:09Z"}]}}`, false, "Name=j Status=Failed Completions=0/1 Duration=9s Age=90m"},
		{"job that is suspended", api.Jobs, `{metadata: {name: j}, spec: {completions: 1}, status: {conditions: [{type: Suspended, status: "True"}]}}`, false, "Name=j Status=Suspended Completions=0/1 Duration= Age=90m"},
		{"cron job", api.CronJobs, `{metadata: {name: c}, spec: {schedule: "* * * * *", timeZone: Asia/Tokyo, suspend: true, jobTemplate: {spec: {template: {spec: {containers: [{name: c, image: i}]}}}}}, status: {active: [{name: x}], lastScheduleTime: "2026-01-01T11:59:00Z"}}`, true, "Name=c Schedule=* * * * * Timezone=Asia/Tokyo Suspend=True Active=1 Last Schedule=60s Age=90m Containers=c Images=i Selector=<none>"},
		{"autoscaler", api.HorizontalPodAutoscalers, `{metadata: {name: h}, spec: {scaleTargetRef: {kind: Deployment, name: web}, minReplicas: 2, maxReplicas: 5, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}, {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 100Mi}}}]}, status: {currentReplicas: 3, currentMetrics: [{type: Resource, resource: {name: cpu, current: {averageUtilization: 40, averageValue: 10m}}}]}}`, false, "Name=h Reference=Deployment/web Targets=cpu: 40%/80%, memory: <unknown>/100Mi MinPods=2 MaxPods=5 Replicas=3 Age=90m"},
		{"limit range", api.LimitRanges, `{metadata: {name: l}}`, false, "Name=l Created At=2026-01-01T10:30:00Z"},
		{"quota", api.ResourceQuotas, `{metadata: {name: q}, status: {hard: {pods: "2", limits.memory: 1Gi, requests.cpu: "1"}, used: {pods: "1", limits.memory: 64Mi, requests.cpu: 50m}}}`, false, "Name=q Request=pods: 1/2, requests.cpu: 50m/1 Limit=limits.memory: 64Mi/1Gi Age=90m"},
		{"priority class", api.PriorityClasses, `{metadata: {name: p}, value: 7, globalDefault: true, preemptionPolicy: Never}`, false, "Name=p Value=7 Global-Default=true Age=90m PreemptionPolicy=Never"},
		{"function", api.Functions, `{metadata: {name: f}, spec: {name: f, image: i}, status: {replicas: 2, availableReplicas: 1, conditions: [{type: Ready, status: "False", message: starting}]}}`, true, "Name=f Image=i Replicas=2 Available=1 Ready=False Age=90m Status=starting"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(c.want, row(t, c.r, c.text, c.wide)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestColumnsOfNothing prints an empty object of every kind: what a field does
// not say must not be a panic.
func TestColumnsOfNothing(t *testing.T) {
	for _, r := range api.Resources {
		cols := columnsOf(r)
		if len(cols) < 2 {
			t.Errorf("%s has %d columns", r, len(cols))
		}
		for _, c := range cols {
			switch v := c.cell(r.New(), time.Now()).(type) {
			case string:
				if c.Type != "string" {
					t.Errorf("%s: column %s is %s, its cell a string", r, c.Name, c.Type)
				}
			case int, int32:
				if c.Type != "integer" {
					t.Errorf("%s: column %s is %s, its cell a number", r, c.Name, c.Type)
				}
			case bool:
				if c.Type != "boolean" {
					t.Errorf("%s: column %s is %s, its cell a boolean", r, c.Name, c.Type)
				}
			default:
				t.Errorf("%s: column %s has a cell of %T", r, c.Name, v)
			}
		}
	}
}
