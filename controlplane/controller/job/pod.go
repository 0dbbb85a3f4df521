package job

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/podsnap/podsnap/api"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
)

// indexEnv tells a process its pod's completion index.
const indexEnv = "JOB_COMPLETION_INDEX"

// longestName is that of a pod: it is its host's name, too.
const longestName = 63

// podOf is a new pod of a Job, without a name.
func podOf(j *batchv1.Job, c creation) *corev1.Pod {
	t := j.Spec.Template.DeepCopy()
	p := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: j.Namespace, Labels: t.Labels, Annotations: t.Annotations,
			Finalizers:      append(slices.Clone(t.Finalizers), batchv1.JobTrackingFinalizer),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(j, api.Jobs.GVK())},
		},
		Spec: t.Spec,
	}
	if c.index < 0 {
		return p
	}
	index := strconv.Itoa(c.index)
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Labels[batchv1.JobCompletionIndexAnnotation] = index
	p.Annotations[batchv1.JobCompletionIndexAnnotation] = index
	if perIndex(j) {
		p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(c.counted)
		if c.ignored > 0 {
			p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(c.ignored)
		}
	}
	p.Spec.Hostname = fmt.Sprintf("%s-%s", j.Name, index)
	for _, cs := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range cs {
			cs[i].Env = withIndex(cs[i].Env)
		}
	}
	return p
}

func withIndex(env []corev1.EnvVar) []corev1.EnvVar {
	if slices.ContainsFunc(env, func(e corev1.EnvVar) bool { return e.Name == indexEnv }) {
		return env
	}
	return append(env, corev1.EnvVar{Name: indexEnv, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
		FieldPath: "metadata.annotations['" + batchv1.JobCompletionIndexAnnotation + "']",
	}}})
}

// nameOf makes a name up for a pod of a Job. It is made here and not by the
// store, so that what becomes of a creation can be asked.
func nameOf(j *batchv1.Job, c creation) string {
	end := "-" + rand.String(5)
	if c.index >= 0 {
		end = "-" + strconv.Itoa(c.index) + end
	}
	return j.Name[:min(len(j.Name), longestName-len(end))] + end
}
