package admission

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

// validateFeatures refuses of a pod what no node would do, and what cannot be together:
// nothing is taken and then left out.
func validateFeatures(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	no := func(name, why string) { errs = append(errs, field.Forbidden(p.Child(name), why)) }
	if n := s.RuntimeClassName; n != nil {
		errs = append(errs, oneOf(*n, p.Child("runtimeClassName"), "runc", "podsnap")...) // the classes of the node agent's runtimes
	}
	if len(s.Overhead) > 0 {
		no("overhead", "no runtime class has one")
	}
	if s.HostUsers != nil && !*s.HostUsers {
		no("hostUsers", "user namespaces are not supported: leave it out, or set it to true")
	}
	if len(s.ResourceClaims) > 0 {
		no("resourceClaims", "dynamic resource allocation is not supported")
	}
	if s.Resources != nil {
		no("resources", "resources of a whole pod are not supported: set those of its containers")
	}
	if s.HostnameOverride != nil {
		no("hostnameOverride", "it is not supported: set hostname")
	}
	if o := s.OS; o != nil {
		errs = append(errs, oneOf(o.Name, p.Child("os", "name"), corev1.Linux)...)
	}
	if c := s.SecurityContext; c != nil {
		errs = append(errs, validatePodSecurity(s, c, p.Child("securityContext"))...)
	}
	for i := range s.Volumes {
		errs = append(errs, validateVolumeKind(&s.Volumes[i].VolumeSource, p.Child("volumes").Index(i))...)
	}
	for i := range s.InitContainers {
		errs = append(errs, validateContainerFeatures(&s.InitContainers[i], p.Child("initContainers").Index(i))...)
	}
	for i := range s.Containers {
		errs = append(errs, validateContainerFeatures(&s.Containers[i], p.Child("containers").Index(i))...)
	}
	return errs
}

func validatePodSecurity(s *corev1.PodSpec, c *corev1.PodSecurityContext, p *field.Path) field.ErrorList {
	errs := validateProfiles(c.SeccompProfile, c.AppArmorProfile, p)
	if c.WindowsOptions != nil {
		errs = append(errs, field.Forbidden(p.Child("windowsOptions"), "the nodes run Linux"))
	}
	if g := c.SupplementalGroupsPolicy; g != nil {
		errs = append(errs, oneOf(*g, p.Child("supplementalGroupsPolicy"), corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	if g := c.FSGroupChangePolicy; g != nil {
		errs = append(errs, oneOf(*g, p.Child("fsGroupChangePolicy"), corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	}
	seen := map[string]bool{}
	for i, ctl := range c.Sysctls {
		at := p.Child("sysctls").Index(i).Child("name")
		name := strings.ReplaceAll(ctl.Name, "/", ".")
		switch {
		case seen[name]:
			errs = append(errs, field.Duplicate(at, ctl.Name))
		case !slices.Contains(safeSysctls(), name):
			errs = append(errs, field.NotSupported(at, ctl.Name, safeSysctls()))
		case s.HostNetwork && strings.HasPrefix(name, "net."):
			errs = append(errs, field.Invalid(at, ctl.Name, "may not be specified when 'hostNetwork' is true"))
		case s.HostIPC && strings.HasPrefix(name, "kernel.shm"):
			errs = append(errs, field.Invalid(at, ctl.Name, "may not be specified when 'hostIPC' is true"))
		}
		seen[name] = true
	}
	return errs
}

// safeSysctls are those that Kubernetes calls so: each is a namespace's own, and no
// value of it harms the node.
func safeSysctls() []string {
	return []string{
		"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start",
		"net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
		"net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
	}
}

// validateProfiles is about the kernel's filters. A profile that is not enforced would
// be worse than none.
func validateProfiles(seccomp *corev1.SeccompProfile, armor *corev1.AppArmorProfile, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if seccomp != nil {
		at := p.Child("seccompProfile")
		errs = append(errs, oneOf(seccomp.Type, at.Child("type"), corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)...)
		if seccomp.LocalhostProfile != nil {
			errs = append(errs, field.Forbidden(at.Child("localhostProfile"), "profiles of the node are not supported"))
		}
	}
	if armor != nil {
		errs = append(errs, oneOf(armor.Type, p.Child("appArmorProfile", "type"), corev1.AppArmorProfileTypeUnconfined)...)
	}
	return errs
}

// validateVolumeKind refuses a volume that no node can make.
func validateVolumeKind(s *corev1.VolumeSource, p *field.Path) field.ErrorList {
	known := []string{"emptyDir", "hostPath", "secret", "configMap", "downwardAPI", "projected", "persistentVolumeClaim"}
	var errs field.ErrorList
	for _, kind := range changed(*s, corev1.VolumeSource{}) {
		if !slices.Contains(known, kind) {
			errs = append(errs, field.Forbidden(p.Child(kind), "volumes of this kind are not supported: use "+strings.Join(known, ", ")))
		}
	}
	if h := s.HostPath; h != nil && h.Type != nil && *h.Type != corev1.HostPathUnset {
		errs = append(errs, oneOf(*h.Type, p.Child("hostPath", "type"), corev1.HostPathDirectoryOrCreate, corev1.HostPathDirectory,
			corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)...)
	}
	if e := s.EmptyDir; e != nil && e.Medium != corev1.StorageMediumDefault {
		errs = append(errs, oneOf(e.Medium, p.Child("emptyDir", "medium"), corev1.StorageMediumMemory)...)
	}
	if d := s.DownwardAPI; d != nil {
		errs = append(errs, validateMode(d.DefaultMode, p.Child("downwardAPI", "defaultMode"))...)
		errs = append(errs, validateDownward(d.Items, p.Child("downwardAPI", "items"))...)
	}
	if s.Projected == nil {
		return errs
	}
	known = []string{"secret", "configMap", "downwardAPI", "serviceAccountToken"}
	for i, src := range s.Projected.Sources {
		at := p.Child("projected", "sources").Index(i)
		kinds := changed(src, corev1.VolumeProjection{})
		if len(kinds) > 1 {
			errs = append(errs, field.Forbidden(at.Child(kinds[1]), "may not specify more than 1 volume type, found "+strings.Join(kinds, ", ")))
		}
		for _, kind := range kinds {
			if !slices.Contains(known, kind) {
				errs = append(errs, field.Forbidden(at.Child(kind), "sources of this kind are not supported: use "+strings.Join(known, ", ")))
			}
		}
		if src.Secret != nil {
			errs = append(errs, validateItems(src.Secret.Items, at.Child("secret", "items"))...)
		}
		if src.ConfigMap != nil {
			errs = append(errs, validateItems(src.ConfigMap.Items, at.Child("configMap", "items"))...)
		}
		if src.DownwardAPI != nil {
			errs = append(errs, validateDownward(src.DownwardAPI.Items, at.Child("downwardAPI", "items"))...)
		}
	}
	return errs
}

func validateDownward(items []corev1.DownwardAPIVolumeFile, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, it := range items {
		at := p.Index(i)
		errs = append(errs, required(it.Path, at.Child("path"))...)
		errs = append(errs, inside(it.Path, at.Child("path"))...)
		errs = append(errs, validateMode(it.Mode, at.Child("mode"))...)
		switch {
		case it.FieldRef != nil && it.ResourceFieldRef != nil:
			errs = append(errs, field.Invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		case it.FieldRef != nil:
			fields := []string{"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels", "metadata.annotations"}
			errs = append(errs, validateFieldPath(it.FieldRef.FieldPath, at.Child("fieldRef", "fieldPath"), fields)...)
		case it.ResourceFieldRef != nil:
			errs = append(errs, required(it.ResourceFieldRef.ContainerName, at.Child("resourceFieldRef", "containerName"))...)
			errs = append(errs, validateResourceField(it.ResourceFieldRef, at.Child("resourceFieldRef"))...)
		default:
			errs = append(errs, field.Required(at, "one of fieldRef and resourceFieldRef is required"))
		}
	}
	return errs
}

// validateFieldPath checks a path into the pod: one of fields, or one of its labels or annotations.
func validateFieldPath(path string, p *field.Path, fields []string) field.ErrorList {
	for _, set := range []string{"metadata.labels['", "metadata.annotations['"} {
		if key, ok := strings.CutPrefix(path, set); ok && strings.HasSuffix(key, "']") {
			return invalid(p, path, validation.IsQualifiedName(strings.ToLower(strings.TrimSuffix(key, "']"))))
		}
	}
	return oneOf(path, p, fields...)
}

func validateResourceField(r *corev1.ResourceFieldSelector, p *field.Path) field.ErrorList {
	kind, name, _ := strings.Cut(r.Resource, ".")
	known := name == "cpu" || name == "memory" || name == "ephemeral-storage" || strings.HasPrefix(name, corev1.ResourceHugePagesPrefix)
	var errs field.ErrorList
	if !known || kind != "limits" && kind != "requests" {
		errs = append(errs, field.NotSupported(p.Child("resource"), r.Resource, []string{
			"limits.cpu", "limits.memory", "limits.ephemeral-storage", "requests.cpu", "requests.memory", "requests.ephemeral-storage",
		}))
	}
	if r.Divisor.Sign() < 0 {
		errs = append(errs, field.Invalid(p.Child("divisor"), r.Divisor.String(), "must not be negative"))
	}
	return errs
}

func validateContainerFeatures(c *corev1.Container, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(c.VolumeDevices) > 0 {
		errs = append(errs, field.Forbidden(p.Child("volumeDevices"), "block volumes are not supported: use volumeMounts"))
	}
	if len(c.RestartPolicyRules) > 0 {
		errs = append(errs, field.Forbidden(p.Child("restartPolicyRules"), "rules by exit code are not supported: use restartPolicy, or a Job's podFailurePolicy"))
	}
	if len(c.Resources.Claims) > 0 {
		errs = append(errs, field.Forbidden(p.Child("resources", "claims"), "dynamic resource allocation is not supported"))
	}
	for i, r := range c.ResizePolicy {
		at := p.Child("resizePolicy").Index(i)
		errs = append(errs, oneOf(r.ResourceName, at.Child("resourceName"), corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, oneOf(r.RestartPolicy, at.Child("restartPolicy"), corev1.NotRequired, corev1.RestartContainer)...)
	}
	for i, e := range c.Env {
		at := p.Child("env").Index(i).Child("valueFrom")
		if e.ValueFrom != nil && e.ValueFrom.ResourceFieldRef != nil {
			errs = append(errs, validateResourceField(e.ValueFrom.ResourceFieldRef, at.Child("resourceFieldRef"))...)
		}
		if e.ValueFrom != nil && e.ValueFrom.FileKeyRef != nil {
			errs = append(errs, field.Forbidden(at.Child("fileKeyRef"), "values from files are not supported"))
		}
	}
	if r := c.ReadinessProbe; r != nil && r.TerminationGracePeriodSeconds != nil {
		errs = append(errs, field.Invalid(p.Child("readinessProbe", "terminationGracePeriodSeconds"), *r.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
	}
	errs = append(errs, validatePropagation(c, p)...)
	if s := c.SecurityContext; s != nil {
		errs = append(errs, validateContainerSecurity(s, p.Child("securityContext"))...)
	}
	return errs
}

func validatePropagation(c *corev1.Container, p *field.Path) field.ErrorList {
	privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
	var errs field.ErrorList
	for i, m := range c.VolumeMounts {
		at := p.Child("volumeMounts").Index(i)
		if m.MountPropagation != nil {
			errs = append(errs, oneOf(*m.MountPropagation, at.Child("mountPropagation"), corev1.MountPropagationNone, corev1.MountPropagationHostToContainer, corev1.MountPropagationBidirectional)...)
			if *m.MountPropagation == corev1.MountPropagationBidirectional && !privileged {
				errs = append(errs, field.Forbidden(at.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
			}
		}
		if m.RecursiveReadOnly != nil {
			errs = append(errs, oneOf(*m.RecursiveReadOnly, at.Child("recursiveReadOnly"), corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyIfPossible)...)
		}
	}
	return errs
}

func validateContainerSecurity(s *corev1.SecurityContext, p *field.Path) field.ErrorList {
	errs := validateProfiles(s.SeccompProfile, s.AppArmorProfile, p)
	if s.ProcMount != nil {
		errs = append(errs, oneOf(*s.ProcMount, p.Child("procMount"), corev1.DefaultProcMount)...)
	}
	if s.WindowsOptions != nil {
		errs = append(errs, field.Forbidden(p.Child("windowsOptions"), "the nodes run Linux"))
	}
	return errs
}

// Warnings say what of a written object has no effect, though it is taken: clients
// show them to people.
func Warnings(obj api.Object) []string {
	t, ok := rules.TemplateOf(obj)
	if !ok {
		return nil
	}
	s, p := t.Spec, field.NewPath(t.Path)
	var out []string
	say := func(at *field.Path, why string) { out = append(out, at.String()+": "+why) }
	selinux := func(o *corev1.SELinuxOptions, at *field.Path) {
		if o != nil {
			say(at.Child("securityContext", "seLinuxOptions"), "has no effect: containers get no SELinux label")
		}
	}
	if s.SecurityContext != nil {
		selinux(s.SecurityContext.SELinuxOptions, p)
	}
	for i, c := range containers(s) {
		at := p.Child("containers").Index(i - len(s.InitContainers))
		if i < len(s.InitContainers) {
			at = p.Child("initContainers").Index(i)
		}
		if c.SecurityContext != nil {
			selinux(c.SecurityContext.SELinuxOptions, at)
		}
		if _, ok := c.Resources.Limits[corev1.ResourceEphemeralStorage]; ok {
			say(at.Child("resources", "limits").Key(string(corev1.ResourceEphemeralStorage)), "is not enforced: the sizeLimit of an emptyDir is")
		}
	}
	return out
}
