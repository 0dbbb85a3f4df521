package admission

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

type hostPort struct {
	protocol corev1.Protocol
	ip       string
	port     int32
}

func validateContainers(s *corev1.PodSpec, volumes sets.Set[string], p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.Containers) == 0 {
		errs = append(errs, field.Required(p.Child("containers"), "a pod has at least one container"))
	}
	names := sets.New[string]()
	used := sets.New[hostPort]()
	check := func(c *corev1.Container, at *field.Path, init bool) {
		if c.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, invalid(at.Child("name"), c.Name, validation.IsDNS1123Label(c.Name))...)
			if names.Has(c.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
			}
			names.Insert(c.Name)
		}
		errs = append(errs, validateContainer(c, volumes, at)...)
		errs = append(errs, validatePorts(c.Ports, s.HostNetwork, used, at.Child("ports"))...)
		errs = append(errs, validateProbes(c, init, at)...)
	}
	for i := range s.InitContainers {
		check(&s.InitContainers[i], p.Child("initContainers").Index(i), true)
	}
	for i := range s.Containers {
		check(&s.Containers[i], p.Child("containers").Index(i), false)
	}
	return errs
}

func validateContainer(c *corev1.Container, volumes sets.Set[string], p *field.Path) field.ErrorList {
	errs := required(c.Image, p.Child("image"))
	if strings.TrimSpace(c.Image) != c.Image {
		errs = append(errs, field.Invalid(p.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	errs = append(errs, oneOf(c.ImagePullPolicy, p.Child("imagePullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, oneOf(c.TerminationMessagePolicy, p.Child("terminationMessagePolicy"), corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	if c.RestartPolicy != nil {
		errs = append(errs, oneOf(*c.RestartPolicy, p.Child("restartPolicy"), corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure, corev1.ContainerRestartPolicyNever)...)
	}
	errs = append(errs, validateEnv(c, p)...)
	errs = append(errs, validateMounts(c.VolumeMounts, volumes, p.Child("volumeMounts"))...)
	errs = append(errs, validateResources(&c.Resources, p.Child("resources"))...)
	if s := c.SecurityContext; s != nil {
		at := p.Child("securityContext")
		errs = append(errs, validateIDs(s.RunAsUser, s.RunAsGroup, at)...)
		if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation && s.Privileged != nil && *s.Privileged {
			errs = append(errs, field.Invalid(at, "privileged", "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
	}
	return errs
}

func validatePorts(ports []corev1.ContainerPort, hostNetwork bool, used sets.Set[hostPort], p *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, cp := range ports {
		at := p.Index(i)
		if cp.Name != "" {
			errs = append(errs, invalid(at.Child("name"), cp.Name, validation.IsValidPortName(cp.Name))...)
			if names.Has(cp.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), cp.Name))
			}
			names.Insert(cp.Name)
		}
		if cp.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), "must be between 1 and 65535"))
		} else {
			errs = append(errs, port(cp.ContainerPort, at.Child("containerPort"))...)
		}
		errs = append(errs, protocol(cp.Protocol, at.Child("protocol"))...)
		if cp.HostPort == 0 {
			continue
		}
		errs = append(errs, port(cp.HostPort, at.Child("hostPort"))...)
		if hostNetwork && cp.HostPort != cp.ContainerPort {
			errs = append(errs, field.Invalid(at.Child("hostPort"), cp.HostPort, "must match `containerPort` when `hostNetwork` is true"))
		}
		h := hostPort{cp.Protocol, cp.HostIP, cp.HostPort}
		if used.Has(h) {
			errs = append(errs, field.Duplicate(at.Child("hostPort"), cp.HostPort))
		}
		used.Insert(h)
	}
	return errs
}

func validateEnv(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, e := range c.Env {
		at := p.Child("env").Index(i)
		if e.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, invalid(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))...)
		}
		if e.ValueFrom != nil {
			errs = append(errs, validateEnvSource(e, at.Child("valueFrom"))...)
		}
	}
	for i, f := range c.EnvFrom {
		at := p.Child("envFrom").Index(i)
		switch {
		case f.ConfigMapRef != nil && f.SecretRef != nil:
			errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
		case f.ConfigMapRef != nil:
			errs = append(errs, required(f.ConfigMapRef.Name, at.Child("configMapRef", "name"))...)
		case f.SecretRef != nil:
			errs = append(errs, required(f.SecretRef.Name, at.Child("secretRef", "name"))...)
		default:
			errs = append(errs, field.Required(at, "must specify `configMapRef` or `secretRef`"))
		}
	}
	return errs
}

// envFields are the pod's fields that a variable may be taken from, next to
// metadata.labels['x'] and metadata.annotations['x'].
func envFields() []string {
	return []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
}

func validateEnvSource(e corev1.EnvVar, p *field.Path) field.ErrorList {
	v := e.ValueFrom
	sources := changed(*v, corev1.EnvVarSource{})
	var errs field.ErrorList
	switch {
	case len(sources) == 0:
		return field.ErrorList{field.Required(p, "must specify one of `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`")}
	case len(sources) > 1:
		errs = append(errs, field.Invalid(p, strings.Join(sources, ", "), "may not have more than one field specified at a time"))
	case e.Value != "":
		errs = append(errs, field.Invalid(p, sources[0], "may not be specified when `value` is not empty"))
	}
	if f := v.FieldRef; f != nil {
		keyed := strings.HasPrefix(f.FieldPath, "metadata.labels['") || strings.HasPrefix(f.FieldPath, "metadata.annotations['")
		if !keyed || !strings.HasSuffix(f.FieldPath, "']") {
			errs = append(errs, oneOf(f.FieldPath, p.Child("fieldRef", "fieldPath"), envFields()...)...)
		}
	}
	if f := v.ResourceFieldRef; f != nil {
		errs = append(errs, required(f.Resource, p.Child("resourceFieldRef", "resource"))...)
	}
	if r := v.ConfigMapKeyRef; r != nil {
		errs = append(errs, validateKeyRef(r.Name, r.Key, p.Child("configMapKeyRef"))...)
	}
	if r := v.SecretKeyRef; r != nil {
		errs = append(errs, validateKeyRef(r.Name, r.Key, p.Child("secretKeyRef"))...)
	}
	return errs
}

func validateKeyRef(name, key string, p *field.Path) field.ErrorList {
	errs := required(name, p.Child("name"))
	if key == "" {
		return append(errs, field.Required(p.Child("key"), ""))
	}
	return append(errs, invalid(p.Child("key"), key, validation.IsConfigMapKey(key))...)
}

func validateMounts(mounts []corev1.VolumeMount, volumes sets.Set[string], p *field.Path) field.ErrorList {
	var errs field.ErrorList
	paths := sets.New[string]()
	for i, m := range mounts {
		at := p.Index(i)
		if m.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else if !volumes.Has(m.Name) {
			errs = append(errs, field.NotFound(at.Child("name"), m.Name))
		}
		switch {
		case m.MountPath == "":
			errs = append(errs, field.Required(at.Child("mountPath"), ""))
		case paths.Has(m.MountPath):
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		case strings.Contains(m.MountPath, ":"):
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must not contain ':'"))
		}
		paths.Insert(m.MountPath)
		errs = append(errs, inside(m.SubPath, at.Child("subPath"))...)
		if m.SubPath != "" && m.SubPathExpr != "" {
			errs = append(errs, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
		}
	}
	return errs
}

func validateResources(r *corev1.ResourceRequirements, p *field.Path) field.ErrorList {
	errs := validateResourceNames(r.Limits, p.Child("limits"))
	errs = append(errs, validateResourceNames(r.Requests, p.Child("requests"))...)
	for name, want := range r.Requests {
		limit, ok := r.Limits[name]
		if ok && want.Cmp(limit) > 0 {
			errs = append(errs, field.Invalid(p.Child("requests"), want.String(), "must be less than or equal to "+string(name)+" limit of "+limit.String()))
		}
	}
	return errs
}

func validateResourceNames(l corev1.ResourceList, p *field.Path) field.ErrorList {
	errs := validateQuantities(l, p)
	for name := range l {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix), strings.Contains(string(name), "/"):
		default:
			errs = append(errs, field.Invalid(p.Key(string(name)), name, "must be cpu, memory, ephemeral-storage, hugepages-<size> or a name with a domain (example.com/gpu)"))
		}
	}
	return errs
}

func validateProbes(c *corev1.Container, init bool, p *field.Path) field.ErrorList {
	sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	var errs field.ErrorList
	for _, k := range []struct {
		name  string
		probe *corev1.Probe
	}{{"livenessProbe", c.LivenessProbe}, {"readinessProbe", c.ReadinessProbe}, {"startupProbe", c.StartupProbe}} {
		if k.probe == nil {
			continue
		}
		at := p.Child(k.name)
		if init && !sidecar {
			errs = append(errs, field.Forbidden(at, "may not be set for init containers without restartPolicy=Always"))
		}
		errs = append(errs, validateProbe(k.probe, at)...)
		if k.name != "readinessProbe" && k.probe.SuccessThreshold != 1 {
			errs = append(errs, field.Invalid(at.Child("successThreshold"), k.probe.SuccessThreshold, "must be 1"))
		}
	}
	if l := c.Lifecycle; l != nil {
		for name, h := range map[string]*corev1.LifecycleHandler{"postStart": l.PostStart, "preStop": l.PreStop} {
			if h == nil {
				continue
			}
			at := p.Child("lifecycle", name)
			if h.Sleep != nil {
				errs = append(errs, atLeast(h.Sleep.Seconds, 0, at.Child("sleep", "seconds"))...)
				continue
			}
			errs = append(errs, validateHandler(corev1.ProbeHandler{Exec: h.Exec, HTTPGet: h.HTTPGet, TCPSocket: h.TCPSocket}, at)...)
		}
	}
	return errs
}

func validateProbe(pr *corev1.Probe, p *field.Path) field.ErrorList {
	errs := validateHandler(pr.ProbeHandler, p)
	errs = append(errs, atLeast(int64(pr.InitialDelaySeconds), 0, p.Child("initialDelaySeconds"))...)
	errs = append(errs, atLeast(int64(pr.TimeoutSeconds), 1, p.Child("timeoutSeconds"))...)
	errs = append(errs, atLeast(int64(pr.PeriodSeconds), 1, p.Child("periodSeconds"))...)
	errs = append(errs, atLeast(int64(pr.SuccessThreshold), 1, p.Child("successThreshold"))...)
	errs = append(errs, atLeast(int64(pr.FailureThreshold), 1, p.Child("failureThreshold"))...)
	if g := pr.TerminationGracePeriodSeconds; g != nil {
		errs = append(errs, atLeast(*g, 1, p.Child("terminationGracePeriodSeconds"))...)
	}
	return errs
}

func validateHandler(h corev1.ProbeHandler, p *field.Path) field.ErrorList {
	kinds := changed(h, corev1.ProbeHandler{})
	if len(kinds) == 0 {
		return field.ErrorList{field.Required(p, "must specify a handler type: exec, httpGet, tcpSocket or grpc")}
	}
	var errs field.ErrorList
	if len(kinds) > 1 {
		errs = append(errs, field.Forbidden(p.Child(kinds[1]), "may not specify more than 1 handler type, found "+strings.Join(kinds, ", ")))
	}
	if h.Exec != nil && len(h.Exec.Command) == 0 {
		errs = append(errs, field.Required(p.Child("exec", "command"), ""))
	}
	if g := h.HTTPGet; g != nil {
		at := p.Child("httpGet")
		errs = append(errs, required(g.Path, at.Child("path"))...)
		errs = append(errs, portOrName(g.Port, at.Child("port"))...)
		errs = append(errs, oneOf(g.Scheme, at.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
		for i, hd := range g.HTTPHeaders {
			errs = append(errs, invalid(at.Child("httpHeaders").Index(i).Child("name"), hd.Name, validation.IsHTTPHeaderName(hd.Name))...)
		}
	}
	if t := h.TCPSocket; t != nil {
		errs = append(errs, portOrName(t.Port, p.Child("tcpSocket", "port"))...)
	}
	if g := h.GRPC; g != nil {
		errs = append(errs, port(g.Port, p.Child("grpc", "port"))...)
	}
	return errs
}
