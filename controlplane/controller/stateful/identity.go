package stateful

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/podsnap/podsnap/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// start is the first ordinal of a set.
func start(s *appsv1.StatefulSet) int {
	if s.Spec.Ordinals == nil {
		return 0
	}
	return int(s.Spec.Ordinals.Start)
}

// count is how many pods a set is to have.
func count(s *appsv1.StatefulSet) int {
	if s.Spec.Replicas == nil {
		return 1
	}
	return int(*s.Spec.Replicas)
}

// inRange tells whether a set is to have a pod of an ordinal.
func inRange(s *appsv1.StatefulSet, ordinal int) bool {
	return ordinal >= start(s) && ordinal < start(s)+count(s)
}

func podName(s *appsv1.StatefulSet, ordinal int) string { return s.Name + "-" + strconv.Itoa(ordinal) }

// ordinalOf reads the ordinal of a pod's name; false for a name that no pod of the
// set has.
func ordinalOf(s *appsv1.StatefulSet, pod string) (int, bool) {
	digits, ok := strings.CutPrefix(pod, s.Name+"-")
	n, err := strconv.ParseInt(digits, 10, 32)
	return int(n), ok && err == nil && n >= 0 && podName(s, int(n)) == pod // neither signs nor zeros before
}

// identify gives a pod what tells it from its siblings.
func identify(s *appsv1.StatefulSet, p *corev1.Pod, ordinal int) {
	l := maps.Clone(p.Labels)
	if l == nil {
		l = map[string]string{}
	}
	l[appsv1.StatefulSetPodNameLabel], l[appsv1.PodIndexLabel] = podName(s, ordinal), strconv.Itoa(ordinal)
	p.Labels = l
}

// podFor is the set's pod of an ordinal, of the template of a revision.
func podFor(s *appsv1.StatefulSet, template *corev1.PodTemplateSpec, revision string, ordinal int) *corev1.Pod {
	t := template.DeepCopy()
	p := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: podName(s, ordinal), GenerateName: s.Name + "-",
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s, api.StatefulSets.GVK())},
		},
		Spec: t.Spec,
	}
	identify(s, p, ordinal)
	p.Labels[appsv1.StatefulSetRevisionLabel] = revision
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, s.Spec.ServiceName
	for i := range s.Spec.VolumeClaimTemplates {
		c := &s.Spec.VolumeClaimTemplates[i]
		v := corev1.Volume{Name: c.Name}
		v.PersistentVolumeClaim = &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(s, c.Name, ordinal)}
		p.Spec.Volumes = slices.DeleteFunc(p.Spec.Volumes, func(o corev1.Volume) bool { return o.Name == c.Name })
		p.Spec.Volumes = append(p.Spec.Volumes, v)
	}
	return p
}

func claimName(s *appsv1.StatefulSet, template string, ordinal int) string {
	return template + "-" + podName(s, ordinal)
}

// claimsFor are the claims of a pod as they are to be made.
func claimsFor(s *appsv1.StatefulSet, ordinal int) []*corev1.PersistentVolumeClaim {
	out := make([]*corev1.PersistentVolumeClaim, len(s.Spec.VolumeClaimTemplates))
	for i := range s.Spec.VolumeClaimTemplates {
		c := s.Spec.VolumeClaimTemplates[i].DeepCopy()
		c.Namespace, c.Name = s.Namespace, claimName(s, c.Name, ordinal)
		l := maps.Clone(c.Labels)
		if l == nil {
			l = map[string]string{}
		}
		if s.Spec.Selector != nil {
			maps.Copy(l, s.Spec.Selector.MatchLabels)
		}
		c.Labels, c.Status = l, corev1.PersistentVolumeClaimStatus{}
		out[i] = c
	}
	return out
}

// ownersOf are the owners that a claim of a pod is to have: who of them goes takes it
// along. pod is nil when there is none. leaving says that the set has no place for
// the pod any more.
func ownersOf(s *appsv1.StatefulSet, c *corev1.PersistentVolumeClaim, pod *corev1.Pod, leaving bool) []metav1.OwnerReference {
	out := slices.DeleteFunc(slices.Clone(c.OwnerReferences), func(o metav1.OwnerReference) bool {
		return o.UID == s.UID || o.Kind == api.Pods.Kind
	})
	keep := s.Spec.PersistentVolumeClaimRetentionPolicy
	switch {
	case keep == nil:
	case leaving && keep.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		if pod != nil {
			out = append(out, metav1.OwnerReference{APIVersion: "v1", Kind: api.Pods.Kind, Name: pod.Name, UID: pod.UID})
		}
	case keep.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		gvk := api.StatefulSets.GVK()
		out = append(out, metav1.OwnerReference{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Name: s.Name, UID: s.UID})
	}
	return out
}
