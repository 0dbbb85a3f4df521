package admission

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
)

func validatePod(p *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	errs := append(validatePodSpec(&p.Spec, spec), validateNetwork(&p.ObjectMeta, &p.Spec, nil)...)
	if rules.IsMirror(p) {
		errs = append(errs, rules.ValidateStatic(p)...)
	}
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "cannot be set on create: they come by the subresource ephemeralcontainers"))
	}
	return errs
}

// validateNetwork checks what network a pod asks for, at is where its metadata is.
func validateNetwork(m *metav1.ObjectMeta, s *corev1.PodSpec, at *field.Path) field.ErrorList {
	mode, ok := m.Annotations[api.AnnotationNetwork]
	if !ok {
		return nil
	}
	p := at.Child("metadata", "annotations").Key(api.AnnotationNetwork)
	errs := oneOf(mode, p, api.NetworkNone, api.NetworkBridge)
	if s.HostNetwork {
		errs = append(errs, field.Forbidden(p, "may not be set when 'hostNetwork' is true"))
	}
	if m.Labels[api.LabelFunction] != "" {
		errs = append(errs, field.Forbidden(p, "a function has the cluster's network"))
	}
	for i := range s.Containers {
		if mode == api.NetworkNone && slices.ContainsFunc(s.Containers[i].Ports, func(c corev1.ContainerPort) bool { return c.HostPort != 0 }) {
			errs = append(errs, field.Forbidden(p, "a container has a host port"))
		}
	}
	return errs
}

func validatePodSpec(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	errs, volumes := validateVolumes(s.Volumes, p.Child("volumes"))
	errs = append(errs, validateContainers(s, volumes, p)...)
	errs = append(errs, validateFeatures(s, p)...)
	errs = append(errs, oneOf(s.RestartPolicy, p.Child("restartPolicy"), corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, validateDNS(s, p)...)
	errs = append(errs, validatePlacement(s, p)...)
	if s.HostPID && s.ShareProcessNamespace != nil && *s.ShareProcessNamespace {
		errs = append(errs, field.Invalid(p.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if g := s.TerminationGracePeriodSeconds; g != nil {
		errs = append(errs, atLeast(*g, 0, p.Child("terminationGracePeriodSeconds"))...)
	}
	if d := s.ActiveDeadlineSeconds; d != nil {
		errs = append(errs, atLeast(*d, 1, p.Child("activeDeadlineSeconds"))...)
	}
	for name, value := range map[string]string{"hostname": s.Hostname, "subdomain": s.Subdomain} {
		if value != "" {
			errs = append(errs, invalid(p.Child(name), value, validation.IsDNS1123Label(value))...)
		}
	}
	for name, value := range map[string]string{"serviceAccountName": s.ServiceAccountName, "nodeName": s.NodeName, "schedulerName": s.SchedulerName, "priorityClassName": s.PriorityClassName} {
		if value != "" {
			errs = append(errs, invalid(p.Child(name), value, validation.IsDNS1123Subdomain(value))...)
		}
	}
	if c := s.SecurityContext; c != nil {
		at := p.Child("securityContext")
		errs = append(errs, validateIDs(c.RunAsUser, c.RunAsGroup, at)...)
		if c.FSGroup != nil {
			errs = append(errs, invalid(at.Child("fsGroup"), *c.FSGroup, validation.IsValidGroupID(*c.FSGroup))...)
		}
		for i, g := range c.SupplementalGroups {
			errs = append(errs, invalid(at.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g))...)
		}
	}
	for i, a := range s.HostAliases {
		errs = append(errs, address(a.IP, p.Child("hostAliases").Index(i).Child("ip"))...)
	}
	for i, g := range s.ReadinessGates {
		at := p.Child("readinessGates").Index(i).Child("conditionType")
		errs = append(errs, invalid(at, g.ConditionType, validation.IsQualifiedName(string(g.ConditionType)))...)
	}
	return errs
}

func validateIDs(user, group *int64, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if user != nil {
		errs = append(errs, invalid(p.Child("runAsUser"), *user, validation.IsValidUserID(*user))...)
	}
	if group != nil {
		errs = append(errs, invalid(p.Child("runAsGroup"), *group, validation.IsValidGroupID(*group))...)
	}
	return errs
}

func validateDNS(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	errs := oneOf(s.DNSPolicy, p.Child("dnsPolicy"), corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone)
	servers := p.Child("dnsConfig", "nameservers")
	if s.DNSPolicy == corev1.DNSNone && (s.DNSConfig == nil || len(s.DNSConfig.Nameservers) == 0) {
		errs = append(errs, field.Required(servers, "must provide at least one DNS nameserver when `dnsPolicy` is None"))
	}
	if s.DNSConfig == nil {
		return errs
	}
	if n := len(s.DNSConfig.Nameservers); n > 3 {
		errs = append(errs, field.TooMany(servers, n, 3))
	}
	for i, ip := range s.DNSConfig.Nameservers {
		errs = append(errs, address(ip, servers.Index(i))...)
	}
	return errs
}

// validatePlacement checks what the scheduler reads.
func validatePlacement(s *corev1.PodSpec, p *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(s.NodeSelector, p.Child("nodeSelector"))
	for i, t := range s.Tolerations {
		errs = append(errs, validateToleration(t, p.Child("tolerations").Index(i))...)
	}
	if s.Affinity != nil && s.Affinity.NodeAffinity != nil {
		errs = append(errs, validateNodeAffinity(s.Affinity.NodeAffinity, p.Child("affinity", "nodeAffinity"))...)
	}
	for i, c := range s.TopologySpreadConstraints {
		at := p.Child("topologySpreadConstraints").Index(i)
		errs = append(errs, atLeast(int64(c.MaxSkew), 1, at.Child("maxSkew"))...)
		errs = append(errs, required(c.TopologyKey, at.Child("topologyKey"))...)
		errs = append(errs, oneOf(c.WhenUnsatisfiable, at.Child("whenUnsatisfiable"), corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		errs = append(errs, metavalidation.ValidateLabelSelector(c.LabelSelector, metavalidation.LabelSelectorValidationOptions{}, at.Child("labelSelector"))...)
		errs = append(errs, validateSpread(&c, at)...)
	}
	return errs
}

// validateSpread checks what a topology spread constraint may say besides.
func validateSpread(c *corev1.TopologySpreadConstraint, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if d := c.MinDomains; d != nil {
		errs = append(errs, atLeast(int64(*d), 1, p.Child("minDomains"))...)
		if c.WhenUnsatisfiable != corev1.DoNotSchedule {
			errs = append(errs, field.Invalid(p.Child("minDomains"), *d, "can only use minDomains if whenUnsatisfiable=DoNotSchedule"))
		}
	}
	for name, v := range map[string]*corev1.NodeInclusionPolicy{"nodeAffinityPolicy": c.NodeAffinityPolicy, "nodeTaintsPolicy": c.NodeTaintsPolicy} {
		if v != nil {
			errs = append(errs, oneOf(*v, p.Child(name), corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
		}
	}
	if len(c.MatchLabelKeys) > 0 && c.LabelSelector == nil {
		errs = append(errs, field.Forbidden(p.Child("matchLabelKeys"), "must not be specified when labelSelector is not set"))
	}
	return errs
}

func validateToleration(t corev1.Toleration, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, p.Child("key"))...)
	} else if t.Operator != corev1.TolerationOpExists {
		errs = append(errs, field.Invalid(p.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
	}
	switch t.Operator {
	case corev1.TolerationOpEqual, "":
		errs = append(errs, invalid(p.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))...)
	case corev1.TolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(p.Child("value"), t.Value, "value must be empty when `operator` is 'Exists'"))
		}
	case corev1.TolerationOpLt, corev1.TolerationOpGt: // an alpha of Kubernetes that the scheduler does not know
		fallthrough
	default:
		errs = append(errs, field.NotSupported(p.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
	}
	if t.Effect != "" {
		errs = append(errs, oneOf(t.Effect, p.Child("effect"), corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)...)
	}
	if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
		errs = append(errs, field.Invalid(p.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
	}
	return errs
}

func validateNodeAffinity(a *corev1.NodeAffinity, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r := a.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		terms := p.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
		if len(r.NodeSelectorTerms) == 0 {
			errs = append(errs, field.Required(terms, "must have at least one node selector term"))
		}
		for i, t := range r.NodeSelectorTerms {
			errs = append(errs, validateNodeTerm(t, terms.Index(i))...)
		}
	}
	for i, t := range a.PreferredDuringSchedulingIgnoredDuringExecution {
		at := p.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
		if t.Weight < 1 || t.Weight > 100 {
			errs = append(errs, field.Invalid(at.Child("weight"), t.Weight, "must be in the range 1-100"))
		}
		errs = append(errs, validateNodeTerm(t.Preference, at.Child("preference"))...)
	}
	return errs
}

func validateNodeTerm(t corev1.NodeSelectorTerm, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, r := range t.MatchExpressions {
		at := p.Child("matchExpressions").Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(r.Key, at.Child("key"))...)
		n := len(r.Values)
		switch r.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if n == 0 {
				errs = append(errs, field.Required(at.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'"))
			}
		case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
			if n > 0 {
				errs = append(errs, field.Forbidden(at.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
			}
		case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
			if n != 1 {
				errs = append(errs, field.Required(at.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'"))
			}
		default:
			errs = append(errs, field.NotSupported(at.Child("operator"), r.Operator, []corev1.NodeSelectorOperator{
				corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn, corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist, corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt,
			}))
		}
	}
	for i, r := range t.MatchFields {
		if r.Key != "metadata.name" {
			errs = append(errs, field.NotSupported(p.Child("matchFields").Index(i).Child("key"), r.Key, []string{"metadata.name"}))
		}
	}
	return errs
}

// validateVolumes answers with the names of the volumes too.
func validateVolumes(volumes []corev1.Volume, p *field.Path) (field.ErrorList, sets.Set[string]) {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, v := range volumes {
		at := p.Index(i)
		if v.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, invalid(at.Child("name"), v.Name, validation.IsDNS1123Label(v.Name))...)
			if names.Has(v.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), v.Name))
			}
			names.Insert(v.Name)
		}
		errs = append(errs, validateVolume(&v.VolumeSource, at)...)
	}
	return errs, names
}

func validateVolume(s *corev1.VolumeSource, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if kinds := changed(*s, corev1.VolumeSource{}); len(kinds) > 1 {
		errs = append(errs, field.Forbidden(p.Child(kinds[1]), "may not specify more than 1 volume type, found "+strings.Join(kinds, ", ")))
	}
	if e := s.EmptyDir; e != nil && e.SizeLimit != nil {
		errs = append(errs, notNegative(*e.SizeLimit, p.Child("emptyDir", "sizeLimit"))...)
	}
	if v := s.Secret; v != nil {
		at := p.Child("secret")
		errs = append(errs, required(v.SecretName, at.Child("secretName"))...)
		errs = append(errs, validateMode(v.DefaultMode, at.Child("defaultMode"))...)
		errs = append(errs, validateItems(v.Items, at.Child("items"))...)
	}
	if v := s.ConfigMap; v != nil {
		at := p.Child("configMap")
		errs = append(errs, required(v.Name, at.Child("name"))...)
		errs = append(errs, validateMode(v.DefaultMode, at.Child("defaultMode"))...)
		errs = append(errs, validateItems(v.Items, at.Child("items"))...)
	}
	if v := s.PersistentVolumeClaim; v != nil {
		errs = append(errs, required(v.ClaimName, p.Child("persistentVolumeClaim", "claimName"))...)
	}
	if v := s.Projected; v != nil {
		at := p.Child("projected")
		errs = append(errs, validateMode(v.DefaultMode, at.Child("defaultMode"))...)
		for i := range v.Sources {
			if t := v.Sources[i].ServiceAccountToken; t != nil {
				errs = append(errs, validateTokenProjection(t, at.Child("sources").Index(i).Child("serviceAccountToken"))...)
			}
		}
	}
	if v := s.HostPath; v != nil {
		errs = append(errs, required(v.Path, p.Child("hostPath", "path"))...)
		errs = append(errs, noBackstep(v.Path, p.Child("hostPath", "path"))...)
	}
	return errs
}

func validateMode(m *int32, p *field.Path) field.ErrorList {
	if m != nil && (*m < 0 || *m > 0o777) {
		return field.ErrorList{field.Invalid(p, *m, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}

func validateItems(items []corev1.KeyToPath, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, it := range items {
		errs = append(errs, required(it.Key, p.Index(i).Child("key"))...)
		errs = append(errs, required(it.Path, p.Index(i).Child("path"))...)
		errs = append(errs, inside(it.Path, p.Index(i).Child("path"))...)
		errs = append(errs, validateMode(it.Mode, p.Index(i).Child("mode"))...)
	}
	return errs
}

// inside checks that a path stays in the directory that it is relative to.
func inside(path string, p *field.Path) field.ErrorList {
	if strings.HasPrefix(path, "/") {
		return field.ErrorList{field.Invalid(p, path, "must be a relative path")}
	}
	return noBackstep(path, p)
}

func noBackstep(path string, p *field.Path) field.ErrorList {
	for part := range strings.SplitSeq(path, "/") {
		if part == ".." {
			return field.ErrorList{field.Invalid(p, path, "must not contain '..'")}
		}
	}
	return nil
}

// validatePodUpdate refuses what a running pod cannot follow. A pod is bound
// once: nodeName may go from empty to a node.
func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	was, now := old.Spec.DeepCopy(), p.Spec.DeepCopy()
	defaultPodSpec(was)
	errs := rules.ValidateMirrorUpdate(p, old)
	if len(now.Containers) == len(was.Containers) && len(now.InitContainers) == len(was.InitContainers) {
		for i, c := range containers(now) {
			c.Image = containers(was)[i].Image
		}
	}
	if was.NodeName == "" {
		now.NodeName = ""
	}
	if d := was.ActiveDeadlineSeconds; d == nil || now.ActiveDeadlineSeconds != nil && *now.ActiveDeadlineSeconds <= *d {
		now.ActiveDeadlineSeconds = was.ActiveDeadlineSeconds
	}
	if kept := len(was.Tolerations); len(now.Tolerations) >= kept {
		now.Tolerations = now.Tolerations[:kept:kept]
	}
	if len(now.SchedulingGates) < len(was.SchedulingGates) && sets.New(was.SchedulingGates...).HasAll(now.SchedulingGates...) {
		now.SchedulingGates = was.SchedulingGates
	}
	for _, f := range changed(*now, *was) {
		errs = append(errs, field.Forbidden(spec.Child(f), fmt.Sprintf(
			"pod updates may not change %s; only containers[*].image, initContainers[*].image, activeDeadlineSeconds (shorter) and tolerations (added) may change: delete the pod and create it again", f)))
	}
	return errs
}
