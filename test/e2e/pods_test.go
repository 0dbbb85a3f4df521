package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/platform"
)

const staticPod = `apiVersion: v1
kind: Pod
metadata: {name: beacon, namespace: openfaas-fn, labels: {app: beacon}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: tools:latest
    command: [sh, -c, "echo edition 1; exec sleep 1000"]
    resources: {requests: {cpu: 10m}}
`

// staticPods has the node run what the files of its directory say, whatever kubectl
// does to what it sees of them.
func staticPods(t *testing.T, k *streaming, dir string) {
	file := filepath.Join(dir, "beacon.yaml")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(staticPod)
	node := strings.TrimPrefix(strings.TrimSpace(k.must("", "get", "nodes", "-o", "name")), "node/")
	pod := "beacon-" + node
	says := func(want string) func() error {
		return func() error {
			out, err := k.try("", "logs", pod)
			if err == nil && !strings.Contains(out, want) {
				err = fmt.Errorf("its log is %q, want %q", out, want)
			}
			return err
		}
	}
	platform.Eventually(t, 30*time.Second, says("edition 1"))
	k.must("", "wait", "--for=condition=Ready", "pod/"+pod, "--timeout=120s")
	uid := func() string {
		return k.must("", "get", "pod", pod, "-o", "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID}")
	}
	before := strings.Fields(uid())
	k.must("", "delete", "pod", pod, "--wait=false")
	platform.Eventually(t, 30*time.Second, func() error {
		out, err := k.try("", "get", "pod", pod, "-o", "jsonpath={.metadata.uid} {.status.containerStatuses[0].containerID}")
		now := strings.Fields(out)
		if err != nil || len(now) != 2 || now[0] == before[0] || now[1] != before[1] {
			return fmt.Errorf("before the deletion %q, now %q: %s", before, now, fmt.Sprint(err))
		}
		return nil
	})
	if out := k.must("", "exec", pod, "--", "echo", "hello"); strings.TrimSpace(out) != "hello" {
		t.Errorf("exec by the mirror: %q", out)
	}
	if out := k.must("", "get", "pod", pod, "-o", "jsonpath={.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name} {.metadata.annotations.kubernetes\\.io/config\\.source}"); out != "Node/"+node+" file" {
		t.Errorf("the mirror is %q", out)
	}
	put("kind: Nothing\n") // and nothing is lost
	platform.Eventually(t, 30*time.Second, func() error {
		out, err := k.try("", "-n", "default", "get", "events", "--field-selector", "reason=FailedStaticPod", "-o", "jsonpath={.items[*].message}")
		if err == nil && !strings.Contains(out, "must be a Pod of v1") {
			err = fmt.Errorf("the events say %q", out)
		}
		return err
	})
	put(strings.Replace(staticPod, "edition 1", "edition 2", 1))
	platform.Eventually(t, 30*time.Second, says("edition 2"))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	k.must("", "wait", "--for=delete", "pod/"+pod, "--timeout=120s")
}

const features = `apiVersion: v1
kind: Service
metadata: {name: feature-db}
spec: {ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Pod
metadata: {name: features, labels: {tier: x}}
spec:
  restartPolicy: Never
  hostname: me
  subdomain: sub
  setHostnameAsFQDN: true
  dnsPolicy: None
  dnsConfig: {nameservers: [192.0.2.1], searches: [a.example], options: [{name: ndots, value: "2"}]}
  hostAliases: [{ip: 192.0.2.7, hostnames: [alias]}]
  securityContext: {runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456, supplementalGroups: [4567], supplementalGroupsPolicy: Strict, sysctls: [{name: net.ipv4.tcp_fin_timeout, value: "17"}]}
  volumes:
  - {name: host, hostPath: {path: %s, type: Directory}}
  - {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: limit, resourceFieldRef: {containerName: main, resource: limits.memory}}]}}
  - {name: own, emptyDir: {}}
  containers:
  - name: main
    image: tools:latest
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    resources: {limits: {memory: 64Mi}}
    env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts:
    - {name: host, mountPath: /host, readOnly: true}
    - {name: down, mountPath: /down}
    - {name: own, mountPath: /own, subPathExpr: logs/$(NAME)}
    command: [sh, -c]
    args:
    - |
      hostname; id -u; id -g; echo $(id -G | tr ' ' '\n' | sort -n); echo $FEATURE_DB_SERVICE_PORT_SQL
      cat /etc/resolv.conf /host/file /down/labels /down/limit; echo
      grep alias /etc/hosts; cat /proc/sys/net/ipv4/tcp_fin_timeout
      grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status
      touch /x 2>/dev/null || echo read-only; touch /own/file && stat -c %%g /own/file
`

// podFeatures looks at a pod's small features from inside of it.
func podFeatures(t *testing.T, k *streaming) {
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("of the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	k.must(fmt.Sprintf(features, host), "apply", "-f", "-")
	defer k.must("", "delete", "pod/features", "service/feature-db", "--wait=false")
	if _, err := k.try("", "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/features", "--timeout=120s"); err != nil {
		t.Errorf("%v\n%s", err, k.must("", "describe", "pod", "features"))
	}
	got := k.must("", "logs", "features")
	for _, want := range []string{
		"me.sub.openfaas-fn.svc.cluster.local\n1234\n2345\n2345 3456 4567\n5432\n",
		"nameserver 192.0.2.1\nsearch a.example\noptions ndots:2\nof the host\ntier=\"x\"\n67108864\n",
		"192.0.2.7\talias\n17\n", "CapEff:\t0000000000000000\nNoNewPrivs:\t1\nread-only\n3456\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("inside the pod it is\n%s\nwant\n%s", got, want)
		}
	}
	out, err := k.try(strings.Replace(fmt.Sprintf(features, host), "hostname: me", "hostUsers: false", 1), "apply", "--dry-run=server", "-f", "-")
	if err == nil || !strings.Contains(out+err.Error(), "hostUsers") {
		t.Errorf("what is not supported: %q, %v", out, err)
	}
}

// try is must for what may fail.
func (k *streaming) try(stdin string, args ...string) (string, error) {
	k.Helper()
	out, errs, code := k.run(stdin, args...)
	if code != 0 {
		return out, fmt.Errorf("kubectl %s: exit code %d: %s", strings.Join(args, " "), code, errs)
	}
	return out, nil
}
