package apiserver

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/custom"
)

// column is one column of a table. cell answers with a string, a number or a
// boolean, as the definition's type says.
type column struct {
	metav1.TableColumnDefinition
	cell func(obj api.Object, now time.Time) any
}

// col is a column that is always shown.
func col[T api.Object](name, kind string, cell func(T) any) column {
	return column{
		metav1.TableColumnDefinition{Name: name, Type: kind},
		func(obj api.Object, _ time.Time) any { return cell(obj.(T)) },
	}
}

// wide is a column that kubectl shows with -o wide.
func wide[T api.Object](name string, cell func(T) any) column {
	c := col(name, "string", cell)
	c.Priority = 1
	return c
}

func nameColumn() column {
	c := col("Name", "string", func(obj api.Object) any { return obj.GetName() })
	c.Format = "name"
	return c
}

func ageColumn() column {
	return column{
		metav1.TableColumnDefinition{Name: "Age", Type: "string"},
		func(obj api.Object, now time.Time) any { return age(obj.GetCreationTimestamp().Time, now) },
	}
}

// columnsOf lists the columns of a kind, the ones that kubectl users know.
func columnsOf(r *api.Resource) []column {
	name, since := nameColumn(), ageColumn()
	if k := custom.Of(r); k != nil {
		return customColumns(k)
	}
	switch r {
	case api.CustomResourceDefinitions:
		return []column{name, col("Created At", "string", func(o api.Object) any { return o.GetCreationTimestamp().UTC().Format(time.RFC3339) })}
	case api.Pods:
		return podColumns(name, since)
	case api.Nodes:
		return nodeColumns(name, since)
	case api.Namespaces:
		return []column{name, col("Status", "string", func(n *corev1.Namespace) any { return string(n.Status.Phase) }), since}
	case api.Deployments:
		return deploymentColumns(name, since)
	case api.ReplicaSets:
		return append([]column{
			name,
			col("Desired", "integer", func(r *appsv1.ReplicaSet) any { return count(r.Spec.Replicas) }),
			col("Current", "integer", func(r *appsv1.ReplicaSet) any { return r.Status.Replicas }),
			col("Ready", "integer", func(r *appsv1.ReplicaSet) any { return r.Status.ReadyReplicas }),
			since,
		}, templateColumns(func(r *appsv1.ReplicaSet) (*corev1.PodSpec, string) {
			return &r.Spec.Template.Spec, metav1.FormatLabelSelector(r.Spec.Selector)
		})...)
	case api.ReplicationControllers:
		return append([]column{
			name,
			col("Desired", "integer", func(r *corev1.ReplicationController) any { return count(r.Spec.Replicas) }),
			col("Current", "integer", func(r *corev1.ReplicationController) any { return r.Status.Replicas }),
			col("Ready", "integer", func(r *corev1.ReplicationController) any { return r.Status.ReadyReplicas }),
			since,
		}, templateColumns(func(r *corev1.ReplicationController) (*corev1.PodSpec, string) {
			if r.Spec.Template == nil {
				return &corev1.PodSpec{}, labels.FormatLabels(r.Spec.Selector)
			}
			return &r.Spec.Template.Spec, labels.FormatLabels(r.Spec.Selector)
		})...)
	case api.DaemonSets:
		return daemonColumns(name, since)
	case api.StatefulSets:
		return statefulColumns(name, since)
	case api.ControllerRevisions:
		return revisionColumns(name, since)
	case api.StorageClasses, api.PersistentVolumes, api.PersistentVolumeClaims:
		return storageColumns(r, name, since)
	case api.Jobs:
		return jobColumns(name, since)
	case api.CronJobs:
		return cronJobColumns(name, since)
	case api.LimitRanges, api.ResourceQuotas, api.PriorityClasses:
		return limitColumns(r, name, since)
	case api.HorizontalPodAutoscalers:
		return autoscalerColumns(name, since)
	case api.PodDisruptionBudgets:
		number := func(v *intstr.IntOrString) any {
			if v == nil {
				return "N/A"
			}
			return v.String()
		}
		return []column{
			name,
			col("Min Available", "string", func(b *policyv1.PodDisruptionBudget) any { return number(b.Spec.MinAvailable) }),
			col("Max Unavailable", "string", func(b *policyv1.PodDisruptionBudget) any { return number(b.Spec.MaxUnavailable) }),
			col("Allowed Disruptions", "integer", func(b *policyv1.PodDisruptionBudget) any { return b.Status.DisruptionsAllowed }),
			since,
		}
	case api.Services:
		return serviceColumns(name, since)
	case api.Endpoints:
		return []column{name, col("Endpoints", "string", func(e *corev1.Endpoints) any { return subsets(e.Subsets) }), since}
	case api.EndpointSlices:
		return []column{
			name,
			col("AddressType", "string", func(e *discoveryv1.EndpointSlice) any { return string(e.AddressType) }),
			col("Ports", "string", func(e *discoveryv1.EndpointSlice) any { return slicePorts(e.Ports) }),
			col("Endpoints", "string", func(e *discoveryv1.EndpointSlice) any { return sliceAddresses(e.Endpoints) }),
			since,
		}
	case api.Ingresses:
		return ingressColumns(name, since)
	case api.IngressClasses:
		return []column{
			name,
			col("Controller", "string", func(c *networkingv1.IngressClass) any { return c.Spec.Controller }),
			col("Parameters", "string", func(c *networkingv1.IngressClass) any { return parameters(c.Spec.Parameters) }),
			since,
		}
	case api.NetworkPolicies:
		return []column{
			name,
			col("Pod-Selector", "string", func(p *networkingv1.NetworkPolicy) any { return metav1.FormatLabelSelector(&p.Spec.PodSelector) }),
			since,
		}
	case api.Secrets:
		return []column{
			name,
			col("Type", "string", func(s *corev1.Secret) any { return string(s.Type) }),
			col("Data", "integer", func(s *corev1.Secret) any { return len(s.Data) }),
			since,
		}
	case api.ConfigMaps:
		return []column{name, col("Data", "integer", func(c *corev1.ConfigMap) any { return len(c.Data) + len(c.BinaryData) }), since}
	case api.Leases:
		return []column{name, col("Holder", "string", func(l *coordinationv1.Lease) any { return deref(l.Spec.HolderIdentity) }), since}
	case api.Events:
		return eventColumns(name)
	case api.Functions:
		return functionColumns(name, since)
	case api.CertificateSigningRequests:
		return requestColumns(name, since)
	case api.ServiceAccounts, api.Roles, api.ClusterRoles, api.RoleBindings, api.ClusterRoleBindings:
		return accessColumns(r, name, since)
	}
	return []column{name, since}
}

func deploymentColumns(name, since column) []column {
	return append([]column{
		name,
		col("Ready", "string", func(d *appsv1.Deployment) any {
			return fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, count(d.Spec.Replicas))
		}),
		col("Up-to-date", "integer", func(d *appsv1.Deployment) any { return d.Status.UpdatedReplicas }),
		col("Available", "integer", func(d *appsv1.Deployment) any { return d.Status.AvailableReplicas }),
		since,
	}, templateColumns(func(d *appsv1.Deployment) (*corev1.PodSpec, string) {
		return &d.Spec.Template.Spec, metav1.FormatLabelSelector(d.Spec.Selector)
	})...)
}

func daemonColumns(name, since column) []column {
	number := func(name string, of func(*appsv1.DaemonSetStatus) int32) column {
		return col(name, "integer", func(d *appsv1.DaemonSet) any { return of(&d.Status) })
	}
	return append([]column{
		name,
		number("Desired", func(s *appsv1.DaemonSetStatus) int32 { return s.DesiredNumberScheduled }),
		number("Current", func(s *appsv1.DaemonSetStatus) int32 { return s.CurrentNumberScheduled }),
		number("Ready", func(s *appsv1.DaemonSetStatus) int32 { return s.NumberReady }),
		number("Up-to-date", func(s *appsv1.DaemonSetStatus) int32 { return s.UpdatedNumberScheduled }),
		number("Available", func(s *appsv1.DaemonSetStatus) int32 { return s.NumberAvailable }),
		col("Node Selector", "string", func(d *appsv1.DaemonSet) any { return labels.FormatLabels(d.Spec.Template.Spec.NodeSelector) }),
		since,
	}, templateColumns(func(d *appsv1.DaemonSet) (*corev1.PodSpec, string) {
		return &d.Spec.Template.Spec, metav1.FormatLabelSelector(d.Spec.Selector)
	})...)
}

// templateColumns are what -o wide adds for kinds that make pods.
func templateColumns[T api.Object](of func(T) (*corev1.PodSpec, string)) []column {
	each := func(f func(*corev1.Container) string) func(T) any {
		return func(obj T) any {
			s, _ := of(obj)
			out := make([]string, len(s.Containers))
			for i := range s.Containers {
				out[i] = f(&s.Containers[i])
			}
			return strings.Join(out, ",")
		}
	}
	return []column{
		wide("Containers", each(func(c *corev1.Container) string { return c.Name })),
		wide("Images", each(func(c *corev1.Container) string { return c.Image })),
		wide("Selector", func(obj T) any { _, s := of(obj); return s }),
	}
}

func serviceColumns(name, since column) []column {
	return []column{
		name,
		col("Type", "string", func(s *corev1.Service) any { return string(s.Spec.Type) }),
		col("Cluster-IP", "string", func(s *corev1.Service) any { return none(s.Spec.ClusterIP) }),
		col("External-IP", "string", func(s *corev1.Service) any { return externalIP(s) }),
		col("Port(s)", "string", func(s *corev1.Service) any { return servicePorts(s.Spec.Ports) }),
		since,
		wide("Selector", func(s *corev1.Service) any { return none(labels.FormatLabels(s.Spec.Selector)) }),
	}
}

func externalIP(s *corev1.Service) string {
	var out []string
	for _, i := range s.Status.LoadBalancer.Ingress {
		out = append(out, i.IP+i.Hostname)
	}
	out = append(out, s.Spec.ExternalIPs...)
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case len(out) == 0 && s.Spec.Type == corev1.ServiceTypeLoadBalancer:
		return "<pending>"
	}
	return none(strings.Join(out, ","))
}

func servicePorts(ports []corev1.ServicePort) string {
	out := make([]string, len(ports))
	for i, p := range ports {
		out[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort != 0 {
			out[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return none(strings.Join(out, ","))
}

// few shows three and says how many more there are.
func few(all []string) string {
	if len(all) > 3 {
		return strings.Join(all[:3], ",") + fmt.Sprintf(" + %d more...", len(all)-3)
	}
	return none(strings.Join(all, ","))
}

func subsets(sets []corev1.EndpointSubset) string {
	var out []string
	for _, s := range sets {
		for _, a := range s.Addresses {
			if len(s.Ports) == 0 {
				out = append(out, a.IP)
			}
			for _, p := range s.Ports {
				out = append(out, a.IP+":"+strconv.Itoa(int(p.Port)))
			}
		}
	}
	return few(out)
}

func slicePorts(ports []discoveryv1.EndpointPort) string {
	var out []string
	for _, p := range ports {
		if p.Port != nil {
			out = append(out, strconv.Itoa(int(*p.Port)))
		}
	}
	return few(out)
}

func sliceAddresses(endpoints []discoveryv1.Endpoint) string {
	var out []string
	for _, e := range endpoints {
		out = append(out, e.Addresses...)
	}
	return few(out)
}

func eventColumns(name column) []column {
	c := []column{
		{
			metav1.TableColumnDefinition{Name: "Last Seen", Type: "string"},
			func(obj api.Object, now time.Time) any { return age(lastSeen(obj.(*corev1.Event)), now) },
		},
		col("Type", "string", func(e *corev1.Event) any { return e.Type }),
		col("Reason", "string", func(e *corev1.Event) any { return e.Reason }),
		col("Object", "string", func(e *corev1.Event) any {
			return strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name
		}),
		wide("Subobject", func(e *corev1.Event) any { return e.InvolvedObject.FieldPath }),
		wide("Source", func(e *corev1.Event) any {
			return strings.Trim(e.Source.Component+", "+e.Source.Host, ", ")
		}),
		col("Message", "string", func(e *corev1.Event) any { return strings.TrimSpace(e.Message) }),
		wide("Count", func(e *corev1.Event) any { return strconv.Itoa(int(max(e.Count, 1))) }),
	}
	name.Priority = 1
	return append(c, name)
}

func lastSeen(e *corev1.Event) time.Time {
	times := []time.Time{e.LastTimestamp.Time, e.FirstTimestamp.Time, e.EventTime.Time, e.CreationTimestamp.Time}
	if e.Series != nil {
		times = slices.Insert(times, 0, e.Series.LastObservedTime.Time)
	}
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

func functionColumns(name, since column) []column {
	return []column{
		name,
		col("Image", "string", func(f *api.Function) any { return f.Spec.Image }),
		col("Replicas", "integer", func(f *api.Function) any { return f.Status.Replicas }),
		col("Available", "integer", func(f *api.Function) any { return f.Status.AvailableReplicas }),
		col("Ready", "string", func(f *api.Function) any {
			for _, c := range f.Status.Conditions {
				if c.Type == "Ready" {
					return string(c.Status)
				}
			}
			return "Unknown"
		}),
		since,
		wide("Status", func(f *api.Function) any {
			for _, c := range f.Status.Conditions {
				if c.Type == "Ready" {
					return none(c.Message)
				}
			}
			return "<none>"
		}),
	}
}

func none(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func count(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
