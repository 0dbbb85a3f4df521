package disruption

import (
	"context"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/podstate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons for which pods have to go.
const (
	ByEviction = "EvictionByEvictionAPI"
	ByTaint    = "DeletionByTaintManager"
	ByGarbage  = "DeletionByPodGC"
)

// Mark writes into a pod's status that it has to go through no fault of its own:
// its Job may count that for something else than a failure. Of a pod that is gone
// with its node nobody else will say that it has failed.
func Mark(ctx context.Context, o api.Objects, pod *corev1.Pod, gone bool, reason, message string) error {
	_, err := api.Mutate(ctx, o, api.Pods, pod.Namespace, pod.Name, api.UpdateOptions{Subresource: "status"}, func(p *corev1.Pod) (bool, error) {
		if p.UID != pod.UID || podstate.Ended(p) {
			return false, nil
		}
		if gone {
			p.Status.Phase = corev1.PodFailed
		}
		if podstate.Condition(p, corev1.DisruptionTarget) == nil {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(time.Now().Truncate(time.Second)),
			})
		}
		return true, nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// OfJob tells whether a pod is a Job's, to which it matters how it went. To others
// a mark is a write for nobody, and a node may have thousands of them.
func OfJob(p *corev1.Pod) bool {
	o := metav1.GetControllerOfNoCopy(p)
	return o != nil && o.Kind == api.Jobs.Kind
}
