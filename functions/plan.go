package functions

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// stopReserve is added to the longest invocation: 5 s of it are what the node
// agent keeps for stopping, the rest is for the answer to leave.
const stopReserve = 10 * time.Second

// Plan is the Deployment and the Service that run a valid function. It is a pure
// function of f: equal functions have equal plans. The Deployment's replicas
// are those of its creation (scale.min).
func Plan(f *api.Function) (*appsv1.Deployment, *corev1.Service) {
	d := &appsv1.Deployment{
		ObjectMeta: planMeta(f),
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(Scaling(f.Spec.Labels).Min)),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{api.LabelFunction: f.Name}},
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxUnavailable: new(intstr.FromInt32(0)),
					MaxSurge:       new(intstr.FromInt32(1)),
				},
			},
			Template: planTemplate(f),
		},
	}
	s := &corev1.Service{
		ObjectMeta: planMeta(f),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP,
			// No address of its own: the name leads to the gateway, so that a call
			// from inside wakes the function and is counted.
			ClusterIP: corev1.ClusterIPNone,
			Selector:  map[string]string{api.LabelFunction: f.Name},
			Ports: []corev1.ServicePort{{
				Name: "http", Protocol: corev1.ProtocolTCP, Port: api.FunctionPort, TargetPort: intstr.FromInt32(api.FunctionPort),
			}},
		},
	}
	d.Annotations[AnnotationPlan] = hash(d.ObjectMeta, d.Spec.Strategy, d.Spec.Template)
	s.Annotations[AnnotationPlan] = hash(s.ObjectMeta, s.Spec)
	return d, s
}

func planMeta(f *api.Function) metav1.ObjectMeta {
	m := metav1.ObjectMeta{
		Name: f.Name, Namespace: f.Namespace,
		Labels:      with(f.Spec.Labels, api.LabelFunction, f.Name),
		Annotations: planAnnotations(f),
	}
	if f.UID != "" {
		m.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(f, api.Functions.GVK())}
	}
	return m
}

func planAnnotations(f *api.Function) map[string]string {
	a := with(f.Spec.Annotations)
	if a[annotationScrape] == "" {
		a[annotationScrape] = "false"
	}
	return a
}

func planTemplate(f *api.Function) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{
			Labels:      with(f.Spec.Labels, api.LabelFunction, f.Name),
			Annotations: with(planAnnotations(f), api.AnnotationDrain, "true"),
		},
	}
	// Scaling is the Deployment's: a change of it must not replace replicas.
	maps.DeleteFunc(t.Labels, func(k, _ string) bool { return strings.HasPrefix(k, LabelScalePrefix) })
	delete(t.Labels, api.AnnotationConcurrency)
	if n := Concurrency(f); n > 0 {
		t.Annotations[api.AnnotationConcurrency] = strconv.Itoa(n)
	}
	timeout := Timeout(f)
	if timeout > 0 {
		t.Annotations[api.AnnotationTimeout] = timeout.String()
	} else {
		timeout = DefaultTimeout
	}
	selector, affinity := place(f.Spec.Constraints)
	volumes, mounts := planVolumes(f)
	t.Spec = corev1.PodSpec{
		RestartPolicy:                 corev1.RestartPolicyAlways,
		DNSPolicy:                     corev1.DNSClusterFirst,
		TerminationGracePeriodSeconds: new(int64((timeout + stopReserve + time.Second - 1) / time.Second)),
		NodeSelector:                  selector,
		Affinity:                      affinity,
		PriorityClassName:             f.Spec.Annotations[api.AnnotationPriorityClass],
		EnableServiceLinks:            new(false),
		AutomountServiceAccountToken:  new(false),
		Volumes:                       volumes,
		Containers:                    []corev1.Container{planContainer(f, mounts)},
	}
	return t
}

func planContainer(f *api.Function, mounts []corev1.VolumeMount) corev1.Container {
	limits, _ := readResources(f.Spec.Limits, nil)
	requests, _ := readResources(f.Spec.Requests, nil)
	ready, _ := readProbe(f.Spec.Annotations, annotationReady, nil)
	health, _ := readProbe(f.Spec.Annotations, annotationHealth, nil)
	return corev1.Container{
		Name:            f.Name,
		Image:           planImage(f),
		ImagePullPolicy: corev1.PullIfNotPresent,
		Env:             planEnv(f),
		Ports:           []corev1.ContainerPort{{Name: "http", ContainerPort: api.FunctionPort, Protocol: corev1.ProtocolTCP}},
		Resources:       corev1.ResourceRequirements{Limits: limits, Requests: requests},
		VolumeMounts:    mounts,
		ReadinessProbe:  ready,
		LivenessProbe:   health,
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: new(false),
			ReadOnlyRootFilesystem:   new(f.Spec.ReadOnlyRootFilesystem),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
}

// planImage is the image, pinned to the digest it had at the deploy if that is
// known.
func planImage(f *api.Function) string {
	d := f.Annotations[AnnotationDigest]
	if d == "" {
		return f.Spec.Image
	}
	n, err := reference.ParseNormalizedNamed(f.Spec.Image)
	if err != nil {
		return f.Spec.Image
	}
	if _, ok := n.(reference.Digested); ok {
		return f.Spec.Image
	}
	return f.Spec.Image + "@" + d
}

func planEnv(f *api.Function) []corev1.EnvVar {
	env := with(f.Spec.Environment, "OPENFAAS_NAME", f.Name, "OPENFAAS_NAMESPACE", f.Namespace)
	if f.Spec.Process != "" {
		env[envProcess] = f.Spec.Process
	}
	if _, said := env[envSuppressLock]; !said {
		// The file is for probes that run a command, which functions do not have
		// here; without it most functions write nothing, and their root file
		// system can be used again.
		env[envSuppressLock] = "true"
	}
	out := make([]corev1.EnvVar, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, corev1.EnvVar{Name: k, Value: literal(env[k])})
	}
	return out
}

// literal keeps a value as the user wrote it: in a pod "$(X)" would be expanded
// and "$$" would become "$".
func literal(v string) string {
	if strings.Contains(v, "$(") || strings.Contains(v, "$$") {
		return strings.ReplaceAll(v, "$", "$$")
	}
	return v
}

func planVolumes(f *api.Function) (volumes []corev1.Volume, mounts []corev1.VolumeMount) {
	if len(f.Spec.Secrets) > 0 {
		p := &corev1.ProjectedVolumeSource{DefaultMode: new(int32(0o444))}
		for _, s := range f.Spec.Secrets {
			p.Sources = append(p.Sources, corev1.VolumeProjection{Secret: &corev1.SecretProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: s},
			}})
		}
		volumes = append(volumes, corev1.Volume{Name: "secrets", VolumeSource: corev1.VolumeSource{Projected: p}})
		mounts = append(mounts, corev1.VolumeMount{Name: "secrets", MountPath: SecretsDir, ReadOnly: true})
	}
	if f.Spec.ReadOnlyRootFilesystem {
		volumes = append(volumes, corev1.Volume{Name: "tmp", VolumeSource: corev1.VolumeSource{
			EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory},
		}})
		mounts = append(mounts, corev1.VolumeMount{Name: "tmp", MountPath: "/tmp"})
	}
	return volumes, mounts
}

// with is a copy of m with more pairs.
func with(m map[string]string, pairs ...string) map[string]string {
	out := make(map[string]string, len(m)+len(pairs)/2)
	maps.Copy(out, m)
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = pairs[i+1]
	}
	return out
}

// hash names a plan. JSON of these types is stable: maps are written sorted.
func hash(parts ...any) string {
	h := sha256.New()
	e := json.NewEncoder(h)
	for _, p := range parts {
		if err := e.Encode(p); err != nil {
			panic(err) // API types always encode
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
