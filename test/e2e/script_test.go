package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/platform"
)

// scripted goes with kubectl, unmodified, through the days of a Deployment and what
// is around it: every step says what its output has to show. Each verb is held to a
// server in one place at least; what other tests do is not done again here:
//
//	verb                                                    where
//	exec, attach, port-forward, cp, run, debug              streams_test.go
//	apply (both kinds), explain, --show-managed-fields      apply_test.go; controlplane/apiserver/explain_test.go
//	top, autoscale under load, describe hpa                 autoscaling_test.go
//	create job --from, describe job and cronjob             jobs_test.go
//	rollout of a StatefulSet                                stateful_test.go
//	create -f errors, get -w --output-watch-events, events,
//	taint, drain of a node that is only an object           controlplane/apiserver/kubectl_test.go
//	drain against budgets, nodes of a cluster               ../cluster/nodes_test.go
//	all else                                                here
func scripted(t *testing.T, k *streaming) {
	s := &script{streaming: k, dir: t.TempDir()}
	kustomization := "namePrefix: pre-fix-\nconfigMapGenerator: [{name: made, literals: [a=b]}]\n"
	if err := os.WriteFile(filepath.Join(s.dir, "kustomization.yaml"), []byte(kustomization), 0o600); err != nil {
		t.Fatal(err)
	}
	k.must("", "create", "namespace", "script")
	defer k.must("", "delete", "namespace", "script", "--timeout=120s")
	for _, part := range []struct {
		name  string
		steps []step
	}{
		{"server", serverSteps},
		{"permissions", permissionSteps},
		{"objects", objectSteps},
		{"deployment", deploymentSteps},
		{"revisions", revisionSteps},
		{"logs", logSteps},
		{"node", nodeSteps},
		{"kinds", kindSteps},
		{"accounts", accountSteps},
		{"deletion", deletionSteps},
	} {
		t.Run(part.name, func(t *testing.T) {
			s := *s
			s.streaming = &streaming{T: t, bin: k.bin, config: k.config, cache: k.cache}
			for _, st := range part.steps {
				s.do(st)
			}
		})
	}
	s.edits()
}

// step is one command. Its words are split at spaces; one between ' and ' may have
// some.
type step struct {
	run   string
	in    string   // its input
	shows []string // regular expressions that the output, errors included, has to match
	lacks string   // one that it must not match
	fails bool     // its exit code is not 0
	soon  bool     // it is done again until it is as it should be, for half a minute
}

type script struct {
	*streaming
	dir string // of files
}

var word = regexp.MustCompile(`(?:'[^']*'|[^\s'])+`)

func (s *script) args(line string) []string {
	out := []string{"-n", "script"}
	for _, w := range word.FindAllString(strings.ReplaceAll(line, "KUSTOMIZE", s.dir), -1) {
		out = append(out, strings.ReplaceAll(w, "'", ""))
	}
	return out
}

func (s *script) do(st step) {
	s.Helper()
	judge := func() error {
		out, errs, code := s.run(st.in, s.args(st.run)...)
		all := out + errs
		if (code != 0) != st.fails {
			return fmt.Errorf("kubectl %s: exit code %d\n%s", st.run, code, all)
		}
		for _, want := range st.shows {
			if !regexp.MustCompile(want).MatchString(all) {
				return fmt.Errorf("kubectl %s: does not show %q:\n%s", st.run, want, all)
			}
		}
		if st.lacks != "" && regexp.MustCompile(st.lacks).MatchString(all) {
			return fmt.Errorf("kubectl %s: shows %q:\n%s", st.run, st.lacks, all)
		}
		return nil
	}
	if st.soon {
		platform.Eventually(s, 30*time.Second, judge)
	} else if err := judge(); err != nil {
		s.Error(err)
	}
}

var serverSteps = []step{
	{run: "version", shows: []string{`Server Version: v1\.\d+\.\d+\+podsnap`}},
	{run: "cluster-info", shows: []string{"control plane.* is running at .*https://127"}},
	{run: "api-versions", shows: []string{`(?m)^apps/v1$`, `(?m)^batch/v1$`, `(?m)^v1$`}},
	{run: "api-resources --verbs=list,watch -o name", shows: []string{`(?m)^deployments\.apps$`, `(?m)^pods$`, `(?m)^leases\.coordination\.k8s\.io$`}},
	{run: "api-resources --api-group=apps", shows: []string{`deployments +deploy +apps/v1 +true +Deployment`}},
	{run: "get --raw /readyz", shows: []string{"^ok$"}},
	{run: "get --raw /version", shows: []string{`"gitVersion"`}},
	{run: "get nonsense", fails: true, shows: []string{`the server doesn't have a resource type "nonsense"`}},
}

var permissionSteps = []step{
	{run: "auth can-i create deployments", shows: []string{"^yes"}},
	{run: "auth can-i '*' '*' --all-namespaces", shows: []string{"^yes"}},
}

var accountSteps = []step{
	{run: "create serviceaccount robot", shows: []string{"created"}},
	{run: "get sa robot", shows: []string{"robot"}},
}

var objectSteps = []step{
	{run: "create configmap conf --from-literal=a=b --from-literal=c=d", shows: []string{"configmap/conf created"}},
	{run: "create configmap conf --from-literal=a=b", fails: true, shows: []string{`configmaps "conf" already exists`}},
	{run: "create configmap other --from-literal=a=b --dry-run=client -o yaml", shows: []string{"(?m)^kind: ConfigMap$", "a: b"}},
	{run: "create secret generic keys --from-literal=user=me --type=example.com/keys", shows: []string{"secret/keys created"}},
	{run: "describe configmap conf", shows: []string{`a:\s+----\s+b`}},
	{run: "describe secret keys", shows: []string{`Type: +example.com/keys`, `user: +2 bytes`}, lacks: "bWU="},
	{run: "label configmap conf tier=front", shows: []string{"labeled"}},
	{run: "label configmap conf tier=back", fails: true, shows: []string{"already has a value"}},
	{run: "label configmap conf tier=back --overwrite", shows: []string{"labeled"}},
	{run: "get configmaps -L tier --show-labels", shows: []string{"conf.*back.*tier=back"}},
	{run: "label configmap conf tier-", shows: []string{"unlabeled"}},
	{run: "get configmaps -l tier", shows: []string{"No resources found"}},
	{run: "annotate configmap conf note=x", shows: []string{"annotated"}},
	{run: "annotate configmap conf --list", shows: []string{"note=x"}},
	{run: `patch configmap conf -p '{"data":{"a":"1"}}'`, shows: []string{"patched"}},
	{run: `patch configmap conf --type=merge -p '{"data":{"c":null}}'`, shows: []string{"patched"}},
	{run: `patch configmap conf --type=json -p '[{"op":"test","path":"/data/a","value":"1"},{"op":"add","path":"/data/e","value":"f"}]'`, shows: []string{"patched"}},
	{run: `patch configmap conf --type=json -p '[{"op":"test","path":"/data/a","value":"2"},{"op":"remove","path":"/data/e"}]'`, fails: true, shows: []string{"(?i)test.*failed"}},
	{run: `patch configmap conf --type=json -p '[{"op":"remove","path":"/data/none"}]'`, fails: true, shows: []string{"/data/none"}},
	{run: `patch configmap conf -p '{"data":{"a":"1"}}'`, shows: []string{"no change"}},
	{run: "get configmap conf -o jsonpath={.data}", shows: []string{`^\{"a":"1","e":"f"\}$`}},
	{run: "diff -f -", in: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"conf"},"data":{"a":"2","e":"f"}}`, fails: true, shows: []string{`(?m)^-  a: "1"$`, `(?m)^\+  a: "2"$`}},
	{run: "diff -f -", in: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"conf"},"data":{"a":"1"}}`, lacks: "."},
	{run: "replace -f -", in: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"conf"},"data":{"a":"3"}}`, shows: []string{"replaced"}},
	{run: "replace -f -", in: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"conf","resourceVersion":"1"},"data":{"a":"4"}}`, fails: true, shows: []string{"the object has been modified"}},
	{run: "replace --force -f -", in: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"conf"},"data":{"a":"5"}}`, shows: []string{`"conf" deleted`, "conf replaced"}},
	{run: "create -f -", in: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"made-"}}`, shows: []string{"configmap/made-[a-z0-9]{5} created"}},
	{run: "apply -f -", in: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"conf"},"data":{"a":"6"}}`, shows: []string{"configured"}},
	{run: "apply view-last-applied configmap conf", shows: []string{`a: "6"`}},
	{run: "get configmaps -o custom-columns=N:.metadata.name,A:.data.a --sort-by=.metadata.name --chunk-size=1", shows: []string{`(?s)N +A\nconf +6\n.*made-`}},
	{run: `get configmap conf -o go-template='{{.data.a}}'`, shows: []string{"^6$"}},
	{run: "get configmaps -A --field-selector metadata.name=conf --no-headers", shows: []string{"^script +conf +1 "}},
}

const web = "'trap \"exit 0\" TERM; while :; do sleep 0.1; done'"

var deploymentSteps = []step{
	{run: "create deployment web --image=tools:latest --replicas=2 -- sh -c " + web, shows: []string{"deployment.apps/web created"}},
	{run: "rollout status deployment/web --timeout=120s", shows: []string{`"web" successfully rolled out`}},
	{run: "get deployment web", shows: []string{`web +2/2 +2 +2 `}},
	{run: "describe deployment web", shows: []string{"2 desired | 2 updated | 2 total | 2 available | 0 unavailable", "ScalingReplicaSet|Scaled up replica set"}},
	{run: "get replicasets -l app=web -o wide", shows: []string{`web-\S+ +2 +2 +2 .* tools +tools:latest +app=web`}},
	{run: "describe pods -l app=web", shows: []string{`Controlled By: +ReplicaSet/web-`, `Status: +Running`, "Started container|Started"}},
	{run: "wait --for=condition=Available deployment/web --timeout=120s", shows: []string{"condition met"}},
	{run: "wait --for=condition=Nonsense deployment/web --timeout=1s", fails: true, shows: []string{"timed out"}},
	{run: "wait --for=jsonpath={.status.readyReplicas}=2 deployment/web --timeout=120s", shows: []string{"condition met"}},
	{run: "scale deployment web --replicas=3", shows: []string{"scaled"}},
	{run: "scale deployment web --replicas=4 --current-replicas=9", fails: true, shows: []string{"Expected replicas to be 9, was 3"}},
	{run: "rollout status deployment/web --timeout=120s", shows: []string{"successfully rolled out"}},
	{run: "expose deployment web --port=80 --target-port=8000", shows: []string{"service/web exposed"}},
	{run: "describe service web", shows: []string{`Selector: +app=web`, `TargetPort: +8000/TCP`}},
	{run: "get endpointslices -l kubernetes.io/service-name=web -o jsonpath={.items[*].endpoints[*].targetRef.name}", soon: true, shows: []string{`^web-\S+ web-\S+ web-\S+$`}},
	{run: "autoscale deployment web --min=1 --max=4 --cpu-percent=80 --name=auto", shows: []string{"autoscaled"}},
	{run: "get hpa auto", shows: []string{`Deployment/web +.*80% +1 +4`}},
	{run: "delete hpa auto", shows: []string{"deleted"}},
}

var revisionSteps = []step{
	{run: "scale deployment web --replicas=2"},
	{run: "set env deployment/web A=1", shows: []string{"env updated"}},
	{run: "rollout status deployment/web --timeout=120s", shows: []string{"successfully rolled out"}},
	{run: "set env deployment/web --list", shows: []string{"A=1"}},
	{run: "set resources deployment/web --limits=cpu=200m,memory=64Mi", shows: []string{"resource requirements updated"}},
	{run: "rollout status deployment/web --timeout=120s", shows: []string{"successfully rolled out"}},
	{run: "set image deployment/web tools=tools:none", shows: []string{"image updated"}},
	{run: "rollout status deployment/web --timeout=1s", fails: true, shows: []string{"timed out|Waiting for deployment"}},
	{run: "get pods -l app=web", soon: true, shows: []string{"ErrImagePull|ImagePullBackOff"}},
	{run: "get deployment web -o jsonpath={.status.availableReplicas}", shows: []string{"^2$"}},
	{run: "rollout history deployment/web", shows: []string{`(?m)^1 `, `(?m)^2 `, `(?m)^3 `, `(?m)^4 `}},
	{run: "rollout history deployment/web --revision=2", shows: []string{`A:\s+1`}},
	{run: "rollout undo deployment/web", shows: []string{"rolled back"}},
	{run: "rollout status deployment/web --timeout=120s", shows: []string{"successfully rolled out"}},
	{run: "get deployment web -o jsonpath={.spec.template.spec.containers[0].image}", shows: []string{"^tools:latest$"}},
	{run: "rollout undo deployment/web --to-revision=1", shows: []string{"rolled back"}},
	{run: "rollout undo deployment/web --to-revision=99", fails: true, shows: []string{"unable to find specified revision 99"}},
	{run: "rollout status deployment/web --timeout=120s", shows: []string{"successfully rolled out"}},
	{run: "get deployment web -o jsonpath={.spec.template.spec.containers[0].env}{.spec.template.spec.containers[0].resources}", shows: []string{`^(\{\})?$`}},
	{run: "rollout history deployment/web", shows: []string{`(?m)^6 `}, lacks: `(?m)^1 `},
	{run: "rollout pause deployment/web", shows: []string{"paused"}},
	{run: "rollout pause deployment/web", fails: true, shows: []string{"already paused"}},
	{run: "set env deployment/web B=2", shows: []string{"env updated"}},
	{run: "rollout undo deployment/web", fails: true, shows: []string{"paused"}},
	{run: "get pods -l app=web -o jsonpath={.items[*].spec.containers[*].env}", lacks: "B"},
	{run: "rollout resume deployment/web", shows: []string{"resumed"}},
	{run: "rollout status deployment/web --timeout=120s", shows: []string{"successfully rolled out"}},
	{run: "get pods -l app=web -o jsonpath={.items[*].spec.containers[*].env}", soon: true, shows: []string{`^\[\{"name":"B","value":"2"\}\] \[\{"name":"B","value":"2"\}\]$`}},
	{run: "rollout restart deployment/web", shows: []string{"restarted"}},
	{run: "rollout status deployment/web --timeout=120s", shows: []string{"successfully rolled out"}},
	{run: "get deployment web -o jsonpath={.spec.template.metadata.annotations}", shows: []string{"kubectl.kubernetes.io/restartedAt"}},
}

var logSteps = []step{
	{run: "run crash --image=tools:latest --restart=Always --command -- sh -c 'echo life of $$; date +%N; exit 3'", shows: []string{"pod/crash created"}},
	{run: "get pod crash -o jsonpath={.status.containerStatuses[0].restartCount}", soon: true, shows: []string{"^[1-9]"}},
	{run: "logs crash --previous", soon: true, shows: []string{"^life of"}},
	{run: "describe pod crash", shows: []string{`Last State: +Terminated`, `Exit Code: +3`, `Restart Count: +[1-9]`}},
	{run: "get pod crash", soon: true, shows: []string{"CrashLoopBackOff"}},
	{run: "delete pod crash --now", shows: []string{"deleted"}},
	{run: "run talk --image=tools:latest --restart=Never --command -- sh -c 'for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done'", shows: []string{"created"}},
	{run: "wait --for=condition=Ready pod/talk --timeout=120s", shows: []string{"met"}},
	{run: "logs -f talk", shows: []string{"^line 1\nline 2\nline 3\nline 4\nline 5\n$"}},
	{run: "logs talk --tail=2", shows: []string{"^line 4\nline 5\n$"}},
	{run: "logs talk --timestamps --tail=1", shows: []string{`^\d{4}-\d\d-\d\dT[0-9:.]+Z? ?\S* ?line 5\n$`}},
	{run: "logs -l run=talk --prefix --tail=1", shows: []string{`^\[pod/talk/talk\] line 5`}},
	{run: "logs talk -c other", fails: true, shows: []string{"container other is not valid for pod talk"}},
	{run: "logs talk --previous", fails: true, shows: []string{"previous terminated container .* not found"}},
	{run: "logs deployment/web --since=1s"},
	{run: "get pod talk", soon: true, shows: []string{`talk +0/1 +Completed +0 `}},
	{run: "get pods --field-selector=status.phase=Succeeded -o name", shows: []string{"^pod/talk\n$"}},
	{run: "events --for pod/talk", shows: []string{"Scheduled", "Started"}},
}

var nodeSteps = []step{
	{run: "cordon test-node", shows: []string{"cordoned"}},
	{run: "get node test-node", shows: []string{"Ready,SchedulingDisabled"}},
	{run: "run late --image=tools:latest --labels=run=late --command -- sh -c " + web, shows: []string{"created"}},
	{run: "get pod late", shows: []string{"Pending"}},
	{run: "describe pod late", soon: true, shows: []string{"FailedScheduling.*unschedulable"}},
	{run: "uncordon test-node", shows: []string{"uncordoned"}},
	{run: "wait --for=condition=Ready pod/late --timeout=120s", shows: []string{"met"}},
	{run: "drain test-node --pod-selector=run=late --timeout=30s", fails: true, shows: []string{"declare no controller"}},
	{run: "drain test-node --pod-selector=run=late --force --grace-period=1 --timeout=120s", shows: []string{"evicting pod script/late", "drained"}},
	{run: "get pod late", fails: true, shows: []string{`pods "late" not found`}},
	{run: "uncordon test-node", shows: []string{"uncordoned"}},
	{run: "taint node test-node key=value:NoSchedule", shows: []string{"tainted"}},
	{run: "describe node test-node", shows: []string{`Taints: +key=value:NoSchedule`, "Allocated resources", `script +web-`}},
	{run: "taint node test-node key-", shows: []string{"untainted"}},
	{run: "top node test-node", shows: []string{`test-node +\d+m`}},
	{run: "label node test-node disk=fast", shows: []string{"labeled"}},
	{run: "label node test-node disk-", shows: []string{"unlabeled"}},
}

var kindSteps = []step{
	{run: "create job once --image=tools:latest -- sh -c 'echo done'", shows: []string{"job.batch/once created"}},
	{run: "wait --for=condition=complete job/once --timeout=120s", shows: []string{"met"}},
	{run: "logs job/once", shows: []string{"^done\n$"}},
	{run: "create cronjob nightly --image=tools:latest --schedule='0 3 * * *' -- true", shows: []string{"created"}},
	{run: "get cronjob nightly", shows: []string{`nightly +0 3 \* \* \*`}},
	{run: "create service nodeport out --tcp=80:8000", shows: []string{"service/out created"}},
	{run: "get service out", shows: []string{`out +NodePort +\S+ +<none> +80:\d+/TCP`}},
	{run: "create service externalname far --external-name=example.com", shows: []string{"created"}},
	{run: "create ingress front --rule=script.example/x*=web:80", shows: []string{"created"}},
	{run: "describe ingress front", shows: []string{`script.example`, `/x +web:80`}},
	{run: "create poddisruptionbudget keep --selector=app=web --min-available=1", shows: []string{"created"}},
	{run: "get pdb keep", soon: true, shows: []string{`keep +1 +N/A +1 `}},
	{run: "apply -k KUSTOMIZE", shows: []string{"configmap/pre-fix-.* created"}},
	{run: "describe namespace script", shows: []string{`Status: +Active`}},
	{run: "get all", shows: []string{"pod/web-", "service/web", "deployment.apps/web", "replicaset.apps/web-", "cronjob.batch/nightly", "job.batch/once"}},
}

var deletionSteps = []step{
	{run: "delete deployment web --cascade=orphan", shows: []string{"deleted"}},
	{run: "get deployment web", fails: true, shows: []string{"not found"}},
	{run: "get replicasets,pods -l app=web", shows: []string{"replicaset.apps/web-", "pod/web-.*Running"}},
	{run: "get replicasets -l app=web -o jsonpath={.items[*].metadata.ownerReferences}", soon: true, shows: []string{"^$"}},
	{run: "delete replicasets -l app=web --cascade=background", shows: []string{"deleted"}},
	{run: "wait --for=delete pods -l app=web --timeout=120s"},
	{run: "create deployment brief --image=tools:latest -- sh -c " + web},
	{run: "rollout status deployment/brief --timeout=120s"},
	{run: "delete deployment brief --cascade=foreground --timeout=120s", shows: []string{"deleted"}},
	{run: "get replicasets,pods -l app=brief", shows: []string{"No resources found"}},
	{run: "delete configmap -l none=such", shows: []string{"No resources found"}},
	{run: "delete configmap nobody", fails: true, shows: []string{`configmaps "nobody" not found`}},
	{run: "delete configmap nobody --ignore-not-found", lacks: "not found"},
	{run: "delete secret,cronjob,ingress,pdb --all", shows: []string{`"keys" deleted`, `"nightly" deleted`, `"front" deleted`, `"keep" deleted`}},
}

// edits has an editor change a Deployment.
func (s *script) edits() {
	s.Helper()
	s.do(step{run: "create deployment edited --image=tools:latest -- sh -c " + web})
	for _, c := range []struct {
		sed, says string
		fails     bool
	}{
		{`s/replicas: 1/replicas: 0/`, "edited", false},
		{`s/nothing/at all/`, "Edit cancelled, no changes made", false},
		{`s/replicas: 0/replicas: -4/`, `deployments.apps "edited" is invalid`, true},
	} {
		cmd := s.command(s.args("edit deployment edited")...)
		cmd.Env = append(os.Environ(), `KUBE_EDITOR=sed -i "`+c.sed+`"`, "TMPDIR="+s.dir)
		out, err := cmd.CombinedOutput()
		if (err != nil) != c.fails || !strings.Contains(string(out), c.says) {
			s.Errorf("kubectl edit with %s: %v\n%s", c.sed, err, out)
		}
	}
	s.do(step{run: "get deployment edited -o jsonpath={.spec.replicas}", shows: []string{"^0$"}})
	s.do(step{run: "delete deployment edited"})
}
