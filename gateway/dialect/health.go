package dialect

import (
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	appsv1 "k8s.io/api/apps/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// health adds to s what the control plane says of the function's replicas. It
// costs nothing: the control plane keeps it with the function.
func health(s *openfaas.FunctionStatus, f *api.Function) {
	s.Restarts = uint64(max(f.Status.Restarts, 0))
	if t := f.Status.LastTermination; t != nil {
		s.LastTermination = &openfaas.Termination{Instance: t.Pod, Reason: t.Reason, ExitCode: int(t.ExitCode), Time: t.Time.UTC()}
	}
	s.Reason, s.Message = stalled(f)
}

// stalled is why replicas don't come up. A function at work may have one too:
// the replicas of its newest version fail while those of the one before serve.
func stalled(f *api.Function) (reason, message string) {
	if f.Status.ObservedGeneration < f.Generation {
		return "", "" // it is about the version before
	}
	for _, want := range []struct {
		condition string
		status    metav1.ConditionStatus
	}{{"Stalled", metav1.ConditionTrue}, {"Ready", metav1.ConditionFalse}} {
		if c := apimeta.FindStatusCondition(f.Status.Conditions, want.condition); c != nil && c.Status == want.status {
			return c.Reason, c.Message
		}
	}
	return "", ""
}

// updating reports whether calls may still be answered by what was deployed
// before, or by nobody. A function that is at zero is up to date: its next
// replica is made of what was deployed last.
func updating(dep *appsv1.Deployment, want int64) bool {
	st := &dep.Status
	if want == 0 {
		return st.Replicas > 0
	}
	return st.ObservedGeneration < dep.Generation || st.UpdatedReplicas == 0 || st.Replicas > st.UpdatedReplicas || st.AvailableReplicas == 0
}
