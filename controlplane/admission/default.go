package admission

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func defaultNamespace(n *corev1.Namespace) {
	if n.Name != "" {
		if n.Labels == nil {
			n.Labels = map[string]string{}
		}
		n.Labels[corev1.LabelMetadataName] = n.Name
	}
	or(&n.Status.Phase, corev1.NamespaceActive)
}

func defaultNode(n *corev1.Node) {
	if n.Status.Allocatable == nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
}

func defaultReplicationController(c *corev1.ReplicationController) {
	s := &c.Spec
	orNew(&s.Replicas, 1)
	if s.Template == nil {
		return
	}
	defaultPodSpec(&s.Template.Spec)
	if len(s.Selector) == 0 {
		s.Selector = maps.Clone(s.Template.Labels)
	}
	if len(c.Labels) == 0 {
		c.Labels = maps.Clone(s.Template.Labels)
	}
}

func defaultReplicaSet(rs *appsv1.ReplicaSet) {
	orNew(&rs.Spec.Replicas, 1)
	defaultPodSpec(&rs.Spec.Template.Spec)
}

func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	orNew(&s.Replicas, 1)
	orNew(&s.RevisionHistoryLimit, 10)
	orNew(&s.ProgressDeadlineSeconds, 600)
	or(&s.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.Strategy.RollingUpdate == nil {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		orNew(&s.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		orNew(&s.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	defaultPodSpec(&s.Template.Spec)
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	s := &d.Spec
	orNew(&s.RevisionHistoryLimit, 10)
	or(&s.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if s.UpdateStrategy.RollingUpdate == nil {
			s.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		orNew(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		orNew(&s.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	defaultPodSpec(&s.Template.Spec)
}

func defaultService(svc *corev1.Service) {
	s := &svc.Spec
	or(&s.SessionAffinity, corev1.ServiceAffinityNone)
	or(&s.Type, corev1.ServiceTypeClusterIP)
	if s.SessionAffinity == corev1.ServiceAffinityNone {
		s.SessionAffinityConfig = nil
	}
	if s.SessionAffinity == corev1.ServiceAffinityClientIP {
		if s.SessionAffinityConfig == nil {
			s.SessionAffinityConfig = &corev1.SessionAffinityConfig{}
		}
		if s.SessionAffinityConfig.ClientIP == nil {
			s.SessionAffinityConfig.ClientIP = &corev1.ClientIPConfig{}
		}
		orNew(&s.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
	for i := range s.Ports {
		p := &s.Ports[i]
		or(&p.Protocol, corev1.ProtocolTCP)
		orPort(&p.TargetPort, p.Port)
	}
	external := s.Type == corev1.ServiceTypeNodePort || s.Type == corev1.ServiceTypeLoadBalancer
	if external {
		or(&s.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if external || s.Type == corev1.ServiceTypeClusterIP {
		orNew(&s.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if s.Type == corev1.ServiceTypeLoadBalancer {
		orNew(&s.AllocateLoadBalancerNodePorts, true)
	}
}

func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			or(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}

func defaultEndpointSlice(e *discoveryv1.EndpointSlice) {
	for i := range e.Ports {
		orNew(&e.Ports[i].Name, "")
		orNew(&e.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// defaultNetworkPolicy says which directions a policy is for when it does not:
// ingress always, egress when it has rules for that.
func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	s := &p.Spec
	for i := range s.Ingress {
		defaultPolicyPorts(s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		defaultPolicyPorts(s.Egress[i].Ports)
	}
	if len(s.PolicyTypes) > 0 {
		return
	}
	s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(s.Egress) > 0 {
		s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
}

func defaultPolicyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		orNew(&ports[i].Protocol, corev1.ProtocolTCP)
	}
}

// defaultSecret also moves stringData, which is write-only, to where it is kept.
func defaultSecret(s *corev1.Secret) {
	or(&s.Type, corev1.SecretTypeOpaque)
	if len(s.StringData) > 0 && s.Data == nil {
		s.Data = make(map[string][]byte, len(s.StringData))
	}
	for k, v := range s.StringData {
		s.Data[k] = []byte(v)
	}
	s.StringData = nil
}
