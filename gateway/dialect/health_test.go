package dialect

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/internal/openfaas"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestHealth(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	condition := func(kind, status, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: metav1.ConditionStatus(status), Reason: reason, Message: "because"}
	}
	for name, tt := range map[string]struct {
		status     api.FunctionStatus
		generation int64
		want       openfaas.FunctionStatus
	}{
		"nothing yet": {},
		"serves":      {status: api.FunctionStatus{Conditions: []metav1.Condition{condition("Ready", "True", "ReplicasAvailable"), condition("Stalled", "False", "NoFault")}}},
		"starts": {
			status: api.FunctionStatus{Conditions: []metav1.Condition{condition("Ready", "False", "NoReplicaAvailable"), condition("Stalled", "False", "NoFault")}},
			want:   openfaas.FunctionStatus{Reason: "NoReplicaAvailable", Message: "because"},
		},
		"the newest version fails, the one before serves": {
			status: api.FunctionStatus{Conditions: []metav1.Condition{condition("Ready", "True", "ReplicasAvailable"), condition("Stalled", "True", "ErrImagePull")}},
			want:   openfaas.FunctionStatus{Reason: "ErrImagePull", Message: "because"},
		},
		"what is known is of the version before": {
			generation: 2,
			status:     api.FunctionStatus{ObservedGeneration: 1, Conditions: []metav1.Condition{condition("Stalled", "True", "ErrImagePull")}},
		},
		"was killed": {
			status: api.FunctionStatus{Restarts: 1, LastTermination: &api.FunctionTermination{Pod: "p", Reason: "OOMKilled", ExitCode: 137, Time: metav1.NewTime(at)}},
			want:   openfaas.FunctionStatus{Restarts: 1, LastTermination: &openfaas.Termination{Instance: "p", Reason: "OOMKilled", ExitCode: 137, Time: at}},
		},
	} {
		var got openfaas.FunctionStatus
		health(&got, &api.Function{ObjectMeta: metav1.ObjectMeta{Generation: tt.generation}, Status: tt.status})
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

func TestUpdating(t *testing.T) {
	for name, tt := range map[string]struct {
		want, replicas, updated, available int32
		unseen, updating                   bool
	}{
		"settled":                           {want: 2, replicas: 2, updated: 2, available: 2},
		"not seen yet":                      {want: 1, replicas: 1, updated: 1, available: 1, unseen: true, updating: true},
		"the old one is there beside it":    {want: 1, replicas: 2, updated: 1, available: 2, updating: true},
		"only the old one":                  {want: 1, replicas: 1, available: 1, updating: true},
		"the new one is not available":      {want: 1, replicas: 1, updated: 1, updating: true},
		"more are to come, of the new ones": {want: 3, replicas: 1, updated: 1, available: 1},
		"at zero":                           {unseen: true},
		"to zero":                           {replicas: 1, available: 1, updating: true},
	} {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Generation: 2}}
		d.Status = appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: tt.replicas, UpdatedReplicas: tt.updated, AvailableReplicas: tt.available}
		if tt.unseen {
			d.Status.ObservedGeneration = 1
		}
		if got := updating(d, int64(tt.want)); got != tt.updating {
			t.Errorf("%s: %v", name, got)
		}
	}
}
