package podsecurity

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podsnap/podsnap/api/rules"
)

func secure() *corev1.SecurityContext {
	return &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
}

// good is a pod that all levels let in: with a container of each sort.
func good() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			InitContainers:  []corev1.Container{{Name: "init", Image: "i", SecurityContext: secure()}},
			Containers:      []corev1.Container{{Name: "main", Image: "i", SecurityContext: secure()}},
			EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: "debug", Image: "i", SecurityContext: secure(),
			}}},
		},
	}
}

// value is one of a control: what makes a pod have it, in its spec or in one of
// its containers.
type value struct {
	name string
	spec func(*corev1.Pod)
	each func(*corev1.Container)
	// why is what baseline and restricted say of the value; "" is that it is allowed.
	baseline, restricted string
}

func security(f func(*corev1.SecurityContext)) func(*corev1.Container) {
	return func(c *corev1.Container) { f(c.SecurityContext) }
}

func volume(v corev1.VolumeSource) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: v}} }
}

func caps(add ...corev1.Capability) func(*corev1.Container) {
	return security(func(s *corev1.SecurityContext) { s.Capabilities.Add = add })
}

func selinux(o corev1.SELinuxOptions) func(*corev1.Container) {
	return security(func(s *corev1.SecurityContext) { s.SELinuxOptions = &o })
}

func seccomp(t corev1.SeccompProfileType) func(*corev1.Container) {
	return security(func(s *corev1.SecurityContext) { s.SeccompProfile = &corev1.SeccompProfile{Type: t} })
}

func apparmor(t corev1.AppArmorProfileType) func(*corev1.Container) {
	return security(func(s *corev1.SecurityContext) { s.AppArmorProfile = &corev1.AppArmorProfile{Type: t} })
}

func procMount(t corev1.ProcMountType) func(*corev1.Container) {
	return security(func(s *corev1.SecurityContext) { s.ProcMount = &t })
}

func sysctl(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.SecurityContext.Sysctls = []corev1.Sysctl{{Name: name, Value: "1"}} }
}

func probe(host string) func(*corev1.Container) {
	return func(c *corev1.Container) {
		c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Host: host, Port: intstr.FromInt32(80)}}}
	}
}

// The values of every control of the Pod Security Standards.
func values() []value {
	refused := func(name, why string, spec func(*corev1.Pod), each func(*corev1.Container)) value {
		return value{name, spec, each, why, why}
	}
	strict := func(name, why string, spec func(*corev1.Pod), each func(*corev1.Container)) value {
		return value{name, spec, each, "", why}
	}
	fine := func(name string, spec func(*corev1.Pod), each func(*corev1.Container)) value {
		return value{name, spec, each, "", ""}
	}
	out := []value{
		fine("nothing", func(*corev1.Pod) {}, nil),
		// Baseline.
		refused("hostNetwork", "host namespaces (hostNetwork=true)", func(p *corev1.Pod) { p.Spec.HostNetwork = true }, nil),
		refused("hostPID", "host namespaces (hostPID=true)", func(p *corev1.Pod) { p.Spec.HostPID = true }, nil),
		refused("hostIPC", "host namespaces (hostIPC=true)", func(p *corev1.Pod) { p.Spec.HostIPC = true }, nil),
		refused("privileged", "privileged", nil, security(func(s *corev1.SecurityContext) { s.Privileged = new(true) })),
		fine("not privileged", nil, security(func(s *corev1.SecurityContext) { s.Privileged = new(false) })),
		refused("hostProcess", "hostProcess", nil, security(func(s *corev1.SecurityContext) {
			s.WindowsOptions = &corev1.WindowsSecurityContextOptions{HostProcess: new(true)}
		})),
		{"NET_RAW", nil, caps("NET_RAW"), "non-default capabilities", `unrestricted capabilities (container `},
		{"SYS_ADMIN", nil, caps("CHOWN", "SYS_ADMIN"), "non-default capabilities", `must not include "CHOWN", "SYS_ADMIN"`},
		strict("CHOWN", "unrestricted capabilities", nil, caps("CHOWN")),
		fine("NET_BIND_SERVICE", nil, caps("NET_BIND_SERVICE")),
		{"hostPath", volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}), nil, `hostPath volumes (volume "v")`, `restricted volume type "hostPath"`},
		refused("hostPort", "hostPort", nil, func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
		}),
		fine("container port", nil, func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{ContainerPort: 80}} }),
		refused("probe of another host", "probe or lifecycle host", nil, probe("192.0.2.1")),
		fine("probe", nil, probe("")),
		refused("AppArmor unconfined", "forbidden AppArmor profile", nil, apparmor(corev1.AppArmorProfileTypeUnconfined)),
		fine("AppArmor default", nil, apparmor(corev1.AppArmorProfileTypeRuntimeDefault)),
		refused("AppArmor annotation", "forbidden AppArmor profile", func(p *corev1.Pod) {
			p.Annotations = map[string]string{"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}
		}, nil),
		refused("SELinux type", "seLinuxOptions", nil, selinux(corev1.SELinuxOptions{Type: "spc_t"})),
		refused("SELinux user", "seLinuxOptions", nil, selinux(corev1.SELinuxOptions{User: "root"})),
		refused("SELinux role", "seLinuxOptions", nil, selinux(corev1.SELinuxOptions{Role: "sysadm_r"})),
		fine("SELinux container_t", nil, selinux(corev1.SELinuxOptions{Type: "container_t"})),
		refused("/proc unmasked", "procMount", nil, procMount(corev1.UnmaskedProcMount)),
		fine("/proc default", nil, procMount(corev1.DefaultProcMount)),
		refused("seccomp unconfined", "seccompProfile", nil, seccomp(corev1.SeccompProfileTypeUnconfined)),
		fine("seccomp default", nil, seccomp(corev1.SeccompProfileTypeRuntimeDefault)),
		refused("sysctl", "forbidden sysctls (kernel.msgmax)", sysctl("kernel.msgmax"), nil),
		fine("sysctl that is safe", sysctl("net.ipv4.ip_local_port_range"), nil),
		// Restricted.
		strict("privilege escalation", "allowPrivilegeEscalation != false", nil, security(func(s *corev1.SecurityContext) { s.AllowPrivilegeEscalation = new(true) })),
		strict("privilege escalation unsaid", "allowPrivilegeEscalation != false", nil, security(func(s *corev1.SecurityContext) { s.AllowPrivilegeEscalation = nil })),
		strict("root", "runAsNonRoot != true", nil, security(func(s *corev1.SecurityContext) { s.RunAsNonRoot = new(false) })),
		strict("root unsaid", "runAsNonRoot != true", func(p *corev1.Pod) { p.Spec.SecurityContext.RunAsNonRoot = nil }, nil),
		strict("user 0", "runAsUser=0", nil, security(func(s *corev1.SecurityContext) { s.RunAsUser = new(int64(0)) })),
		fine("user 7", nil, security(func(s *corev1.SecurityContext) { s.RunAsUser = new(int64(7)) })),
		strict("user 0 of the pod", "runAsUser=0", func(p *corev1.Pod) { p.Spec.SecurityContext.RunAsUser = new(int64(0)) }, nil),
		strict("seccomp unsaid", "seccompProfile", func(p *corev1.Pod) { p.Spec.SecurityContext.SeccompProfile = nil }, nil),
		strict("capabilities kept", "unrestricted capabilities", nil, security(func(s *corev1.SecurityContext) { s.Capabilities = nil })),
		// What would be less asked of elsewhere.
		strict("root in a user namespace", "runAsUser=0", func(p *corev1.Pod) {
			p.Spec.HostUsers = new(false)
			p.Spec.SecurityContext.RunAsUser = new(int64(0))
		}, nil),
		strict("root that says Windows", "seccompProfile", func(p *corev1.Pod) {
			p.Spec.OS = &corev1.PodOS{Name: corev1.Windows}
			p.Spec.SecurityContext.SeccompProfile = nil
		}, nil),
	}
	for name, v := range map[string]corev1.VolumeSource{
		"configMap": {ConfigMap: &corev1.ConfigMapVolumeSource{}}, "secret": {Secret: &corev1.SecretVolumeSource{}},
		"emptyDir": {EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: new(resource.MustParse("1Mi"))}}, "projected": {Projected: &corev1.ProjectedVolumeSource{}},
		"downwardAPI": {DownwardAPI: &corev1.DownwardAPIVolumeSource{}}, "claim": {PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}},
		"ephemeral": {Ephemeral: &corev1.EphemeralVolumeSource{}}, "csi": {CSI: &corev1.CSIVolumeSource{}},
	} {
		out = append(out, fine("volume "+name, volume(v), nil))
	}
	for name, v := range map[string]corev1.VolumeSource{
		"nfs": {NFS: &corev1.NFSVolumeSource{}}, "iscsi": {ISCSI: &corev1.ISCSIVolumeSource{}}, "rbd": {RBD: &corev1.RBDVolumeSource{}},
		"gitRepo": {GitRepo: &corev1.GitRepoVolumeSource{}},
	} {
		out = append(out, strict("volume "+name, `restricted volume types (volume "v" uses restricted volume type "`+name+`")`, volume(v), nil))
	}
	return out
}

// inEach answers with a pod for each place in which the value can be.
func (v value) inEach() map[string]*corev1.Pod {
	out := map[string]*corev1.Pod{}
	if v.spec != nil {
		p := good()
		v.spec(p)
		out["pod"] = p
		return out
	}
	for name, c := range map[string]func(*corev1.Pod) *corev1.Container{
		"init": func(p *corev1.Pod) *corev1.Container { return &p.Spec.InitContainers[0] },
		"main": func(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] },
		"debug": func(p *corev1.Pod) *corev1.Container {
			return (*corev1.Container)(&p.Spec.EphemeralContainers[0].EphemeralContainerCommon)
		},
	} {
		p := good()
		v.each(c(p))
		out[name] = p
	}
	return out
}

func labels(kv ...string) map[string]string {
	m := map[string]string{"app": "x"}
	for i := 0; i < len(kv); i += 2 {
		m[prefix+kv[i]] = kv[i+1]
	}
	return m
}

func TestEveryControl(t *testing.T) {
	for _, v := range values() {
		for where, p := range v.inEach() {
			for level, why := range map[string]string{"privileged": "", "baseline": v.baseline, "restricted": v.restricted} {
				policy, asks := Of(labels("enforce", level))
				if asks != (level != "privileged") {
					t.Fatalf("%s asks: %t", level, asks)
				}
				got := Judge(policy, rules.Template{Meta: &p.ObjectMeta, Spec: &p.Spec}, true).Refused
				if why == "" {
					if got != "" {
						t.Errorf("%s in %s at level %s: %s", v.name, where, level, got)
					}
					continue
				}
				if !strings.HasPrefix(got, fmt.Sprintf("violates PodSecurity %q: ", level+":latest")) || !strings.Contains(got, why) || where != "pod" && !strings.Contains(got, `"`+where+`"`) {
					t.Errorf("%s in %s at level %s: %q, want %q", v.name, where, level, got, why)
				}
			}
		}
	}
}

// Older versions ask for less.
func TestVersions(t *testing.T) {
	p := good()
	probe("192.0.2.1")(&p.Spec.Containers[0])
	for version, refused := range map[string]bool{"latest": true, "v1.34": true, "v1.33": false, "v1.0": false, "v1.99": true} {
		policy, _ := Of(labels("enforce", "baseline", "enforce-version", version))
		if got := Judge(policy, rules.Template{Meta: &p.ObjectMeta, Spec: &p.Spec}, true).Refused; (got != "") != refused || refused && !strings.Contains(got, `"baseline:`+version+`"`) {
			t.Errorf("%s: %q", version, got)
		}
	}
}

func TestModes(t *testing.T) {
	bad := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{Name: "c"}}}}
	const baseline, restricted = `"baseline:latest": host namespaces (hostNetwork=true)`, `"restricted:v1.20": host namespaces (hostNetwork=true), allowPrivilegeEscalation != false (container "c"`
	for _, c := range []struct {
		labels                  map[string]string
		pod                     bool
		refused, warning, audit string
	}{
		{labels("enforce", "baseline"), true, baseline, "", ""},
		{labels("enforce", "baseline"), false, "", baseline, ""}, // warn follows enforce
		{labels("warn", "baseline"), true, "", baseline, ""},
		{labels("audit", "baseline", "warn", "restricted", "warn-version", "v1.20"), true, "", restricted, baseline},
		{labels("enforce", "privileged", "audit", "restricted", "audit-version", "v1.20"), false, "", "", restricted},
		{labels("enforce", "nonsense"), true, `"restricted:latest"`, "", ""}, // it cannot be stored, and is met strictly if it were
	} {
		p, asks := Of(c.labels)
		v := Judge(p, rules.Template{Meta: &bad.ObjectMeta, Spec: &bad.Spec}, c.pod)
		for _, x := range []struct{ got, want string }{{v.Refused, c.refused}, {v.Warning, c.warning}, {v.Audit, c.audit}} {
			if !asks || (x.got == "") != (x.want == "") || !strings.Contains(x.got, x.want) {
				t.Errorf("%v of a pod %t: got %q, want %q", c.labels, c.pod, x.got, x.want)
			}
		}
	}
	if _, asks := Of(map[string]string{"app": "x"}); asks {
		t.Error("a namespace without labels of these asks")
	}
}

func TestLabels(t *testing.T) {
	good := labels("enforce", "baseline", "enforce-version", "v1.30", "audit", "restricted", "audit-version", "latest", "warn", "privileged")
	if errs := ValidateLabels(good); len(errs) > 0 {
		t.Error(errs)
	}
	bad := labels("enforce", "strict", "enforce-version", "1.30", "audit", "", "audit-version", "v2.0", "warn", "Baseline", "warn-version", "v1.x")
	if errs := ValidateLabels(bad); len(errs) != 6 || errs[0].Error() != `metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted` {
		t.Error(errs)
	}
}

func TestMatters(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   bool
	}{
		"labels": {func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }, false},
		"image":  {func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other" }, true},
		"init":   {func(p *corev1.Pod) { p.Spec.InitContainers[0].Image = "other" }, true},
		"ephemeral": {func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{})
		}, true},
	} {
		p := good()
		c.change(p)
		if got := Matters(good(), p); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestExisting(t *testing.T) {
	for _, c := range []struct {
		old, now map[string]string
		want     bool
	}{
		{nil, labels("enforce", "baseline"), true},
		{labels("enforce", "baseline"), labels("enforce", "restricted"), true},
		{labels("enforce", "restricted"), labels("enforce", "baseline"), false},
		{labels("enforce", "baseline"), labels("enforce", "baseline", "warn", "restricted"), false},
		{labels("enforce", "restricted"), labels("enforce", "baseline", "enforce-version", "v1.30"), true},
		{labels("enforce", "restricted"), labels("enforce", "privileged", "enforce-version", "v1.30"), false},
	} {
		if got := Stricter(c.old, c.now); got != c.want {
			t.Errorf("%v to %v: %t", c.old, c.now, got)
		}
	}
	var pods []*corev1.Pod
	add := func(name string, owner types.UID, change func(*corev1.Pod)) {
		p := good()
		p.Name = name
		change(p)
		if owner != "" {
			p.OwnerReferences = []metav1.OwnerReference{{UID: owner, Controller: new(true)}}
		}
		pods = append(pods, p)
	}
	add("fine", "", func(*corev1.Pod) {})
	for i := range 4 {
		add(fmt.Sprint("web-", 3-i), "w", func(p *corev1.Pod) { p.Spec.HostPID = true })
	}
	for _, n := range []string{"b", "a"} {
		add(n, "", func(p *corev1.Pod) { p.Spec.SecurityContext.RunAsNonRoot = nil })
	}
	add("alone", "", func(p *corev1.Pod) { p.Spec.SecurityContext.SeccompProfile = nil })
	ask := labels("enforce", "restricted")
	got := strings.Join(Existing("ns", ask, pods, func() bool { return false }), "\n")
	want := `existing pods in namespace "ns" violate the new PodSecurity enforce level "restricted:latest"
a (and 1 other pod): runAsNonRoot != true
alone: seccompProfile
web-0 (and 3 other pods): host namespaces`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// Those of one controller come last: the first four are one of each sort.
	n := 0
	got = strings.Join(Existing("ns", ask, pods, func() bool { n++; return n == 5 }), "\n")
	if !strings.Contains(got, "only checked against the first 5 of 8 existing pods") || !strings.Contains(got, "alone") {
		t.Error(got)
	}
}
