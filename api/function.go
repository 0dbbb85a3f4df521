package api

import (
	"maps"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// FunctionGroup is the API group that existing tools write Function manifests
// for (`faas-cli generate | kubectl apply`), so those apply unchanged.
const FunctionGroup = "openfaas.com"

// Function is what a person deploys. A controller keeps one Deployment and one
// Service of the same name and namespace for it (see functions.Plan); the
// number of replicas is the Deployment's, not the Function's.
type Function struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   FunctionSpec   `json:"spec"`
	Status FunctionStatus `json:"status,omitempty"`
}

// FunctionSpec is the desired function. Image, memory and cpu strings are kept
// and echoed verbatim.
type FunctionSpec struct {
	Name    string `json:"name"`              // equals metadata.name
	Image   string `json:"image"`             //
	Handler string `json:"handler,omitempty"` // source folder, informative only
	Process string `json:"process,omitempty"` // becomes fprocess in the container's environment

	Annotations map[string]string `json:"annotations,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
	Constraints []string          `json:"constraints,omitempty"` // "key=value" or "key==value": node label equals, "key!=value": differs
	Secrets     []string          `json:"secrets,omitempty"`     // names of Secrets of the same namespace, at /var/openfaas/secrets/<name>

	Limits   *FunctionResources `json:"limits,omitempty"`
	Requests *FunctionResources `json:"requests,omitempty"`

	ReadOnlyRootFilesystem bool `json:"readOnlyRootFilesystem,omitempty"`
}

// FunctionResources are Kubernetes quantities as the user wrote them.
type FunctionResources struct {
	Memory string `json:"memory,omitempty"`
	CPU    string `json:"cpu,omitempty"`
}

// FunctionStatus is what was observed.
type FunctionStatus struct {
	Replicas            int32              `json:"replicas,omitempty"`
	AvailableReplicas   int32              `json:"availableReplicas,omitempty"`
	UnavailableReplicas int32              `json:"unavailableReplicas,omitempty"`
	ObservedGeneration  int64              `json:"observedGeneration,omitempty"`
	Conditions          []metav1.Condition `json:"conditions,omitempty"` // Ready, Healthy, Reconciling, Stalled

	Restarts        int32                `json:"restarts,omitempty"`        // of the containers of the replicas there are
	LastTermination *FunctionTermination `json:"lastTermination,omitempty"` // the newest of those; nil: none has ended
}

// FunctionTermination is how a container of a replica has ended.
type FunctionTermination struct {
	Pod      string      `json:"pod"`
	Reason   string      `json:"reason"` // OOMKilled, Error, Completed, …
	ExitCode int32       `json:"exitCode"`
	Time     metav1.Time `json:"time,omitempty"`
}

// FunctionList is a list of Functions.
type FunctionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []Function `json:"items"`
}

// DeepCopyObject implements runtime.Object.
func (f *Function) DeepCopyObject() runtime.Object { return f.DeepCopy() }

// DeepCopy copies f; nil stays nil.
func (f *Function) DeepCopy() *Function {
	if f == nil {
		return nil
	}
	out := *f
	f.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	s := &out.Spec
	s.Annotations, s.Labels, s.Environment = copyMap(s.Annotations), copyMap(s.Labels), copyMap(s.Environment)
	s.Constraints, s.Secrets = append([]string(nil), s.Constraints...), append([]string(nil), s.Secrets...)
	s.Limits, s.Requests = s.Limits.copy(), s.Requests.copy()
	out.Status.Conditions = append([]metav1.Condition(nil), out.Status.Conditions...)
	if t := out.Status.LastTermination; t != nil {
		last := *t
		out.Status.LastTermination = &last
	}
	return &out
}

// DeepCopyObject implements runtime.Object.
func (l *FunctionList) DeepCopyObject() runtime.Object {
	if l == nil {
		return nil
	}
	out := *l
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	out.Items = make([]Function, len(l.Items))
	for i := range l.Items {
		out.Items[i] = *l.Items[i].DeepCopy()
	}
	return &out
}

func (r *FunctionResources) copy() *FunctionResources {
	if r == nil {
		return nil
	}
	out := *r
	return &out
}

func copyMap(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := make(map[string]string, len(m))
	maps.Copy(out, m)
	return out
}
