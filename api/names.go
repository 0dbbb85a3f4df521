package api

// Names that several components agree on.
const (
	// FunctionNamespace is the default namespace of functions; clients of the
	// OpenFaaS API hard-code it.
	FunctionNamespace = "openfaas-fn"
	// SystemNamespace holds the platform's own objects, node leases included.
	SystemNamespace = "podsnap-system"

	// GatewayService in GatewayNamespace is the Service whose name leads pods to
	// their node's gateway: http://gateway.openfaas:8080, as functions that were
	// written for OpenFaaS have it.
	GatewayNamespace = "openfaas"
	GatewayService   = "gateway"

	// IngressClass is the class of Ingresses that name none, and the one that is
	// there from the beginning; IngressController is whose it is: the gateways'.
	IngressClass      = "podsnap"
	IngressController = "podsnap.dev/gateway"
	// AnnotationIngressClass is an Ingress's class, of the time before the field.
	AnnotationIngressClass = "kubernetes.io/ingress.class"

	// LabelFunction names the function on its Deployment, Service and pods.
	LabelFunction = "faas_function"
	// LabelPodTemplateHash tells a Deployment's replica sets apart.
	LabelPodTemplateHash = "pod-template-hash"
	// LabelServiceName ties an EndpointSlice to its Service.
	LabelServiceName = "kubernetes.io/service-name"
	// LabelFunctionNamespace set to "1" on a Namespace makes it one for functions.
	LabelFunctionNamespace = "openfaas"
	// LabelIsolated set to "false" on a namespace of functions lets the functions
	// of other namespaces reach its functions' pods.
	LabelIsolated = "podsnap.dev/isolated"

	// FunctionPort is where a function container listens; its watchdog's
	// metrics are on the next one.
	FunctionPort = 8080

	// AnnotationDrain on a pod, with any value, makes its node agent hold
	// SIGTERM after the deletion until AnnotationDrained appears or the pod's
	// termination grace period, less the time that stopping needs, is over.
	AnnotationDrain = "podsnap.dev/drain"
	// AnnotationDrained is set (to "true") by the control plane on a deleted
	// pod when no gateway has a request in flight on it any more.
	AnnotationDrained = "podsnap.dev/drained"
	// AnnotationAway on a node's Lease is how long (as in "30s") its agent means
	// to be silent: it was told to end, its pods go on, and another agent is
	// likely to be started. The next renewal takes it away.
	AnnotationAway = "podsnap.dev/away"
	// AnnotationFunctionPorts on a Node are the ports of its machine that functions
	// of all nodes reach, as in "5432/tcp,53/udp"; see FunctionPorts.
	AnnotationFunctionPorts = "podsnap.dev/function-ports"
	// AnnotationNetwork on a pod says what network it has where that is not the
	// cluster's, or not that alone: NetworkNone or NetworkBridge. It counts when the
	// pod's sandbox is made; a change of it on a pod that runs means nothing.
	AnnotationNetwork = "podsnap.dev/network"
	// NetworkNone is a network namespace with nothing in it but the loopback.
	NetworkNone = "none"
	// NetworkBridge is the cluster's network, and in addition the broadcast and
	// multicast of the pods of its namespace on its node that ask for it too.
	NetworkBridge = "bridge"
	// AnnotationConcurrency on a pod of a function is its per-replica limit of
	// concurrent requests, a whole number; absent or 0 means no limit.
	AnnotationConcurrency = "podsnap.dev/concurrency"
	// AnnotationQueue on a function is how many of its requests may wait for a
	// replica, a whole number from 1; absent or more than the gateway's own
	// limit means that.
	AnnotationQueue = "podsnap.dev/queue"
	// AnnotationWait on a function is the longest that one of its requests waits
	// for a replica, a Go duration or seconds; absent is the gateway's.
	AnnotationWait = "podsnap.dev/wait"
	// AnnotationPriorityClass on a function names the PriorityClass of its replicas;
	// without it they have the default one.
	AnnotationPriorityClass = "podsnap.dev/priority-class"
	// AnnotationTimeout on a pod of a function is the longest an invocation may
	// take, a Go duration.
	AnnotationTimeout = "podsnap.dev/timeout"

	// ConditionFrozen is a pod's condition while its processes are stopped
	// because it is idle; it is absent otherwise. A frozen pod is ready all the
	// same: a gateway thaws it before it sends.
	ConditionFrozen = "podsnap.dev/Frozen"

	// FinalizerForeground and FinalizerOrphan are the garbage collector's.
	FinalizerForeground = "foregroundDeletion"
	FinalizerOrphan     = "orphan"
)

// Names of persistent volumes.
const (
	// LocalProvisioner makes volumes on the disks of the nodes themselves: it is the
	// provisioner of storage classes, and the CSI driver that their volumes name.
	LocalProvisioner = "podsnap.dev/local"
	// NoProvisioner is the provisioner of classes whose volumes people make.
	NoProvisioner = "kubernetes.io/no-provisioner"
	// AnnotationDefaultClass set to "true" on a StorageClass makes it the one of
	// claims that name none.
	AnnotationDefaultClass = "storageclass.kubernetes.io/is-default-class"
	// AnnotationSelectedNode on a claim is the node that its first pod will be on.
	AnnotationSelectedNode = "volume.kubernetes.io/selected-node"
	// AnnotationProvisionedBy on a volume is who made it.
	AnnotationProvisionedBy = "pv.kubernetes.io/provisioned-by"
	// FinalizerClaim keeps a claim as long as pods use it, FinalizerVolume a volume
	// as long as a claim is bound to it, and FinalizerDisk one of LocalProvisioner
	// until its node has removed what it holds.
	FinalizerClaim  = "kubernetes.io/pvc-protection"
	FinalizerVolume = "kubernetes.io/pv-protection"
	FinalizerDisk   = "podsnap.dev/local-disk"
)
