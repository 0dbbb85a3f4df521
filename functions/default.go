package functions

import "github.com/podsnap/podsnap/api"

// Names of labels, annotations and environment variables that this package
// reads; the wire names are those of the OpenFaaS API.
const (
	LabelScalePrefix = "com.openfaas.scale."

	// AnnotationDigest on a Function (its metadata, not its spec) is the
	// digest ("sha256:…") that the image's tag had when it was deployed. The
	// plan then runs exactly that digest, so that a new push of the same tag
	// rolls out with the next deploy, and only then.
	AnnotationDigest = "podsnap.dev/digest"

	// AnnotationPlan on a Deployment or Service is the hash of the plan that it
	// was made from.
	AnnotationPlan = "podsnap.dev/plan"

	annotationReady  = "com.openfaas.ready.http."
	annotationHealth = "com.openfaas.health.http."
	annotationScrape = "prometheus.io.scrape"

	envProcess      = "fprocess"
	envSuppressLock = "suppress_lock"
	envExecTimeout  = "exec_timeout"
	envWriteTimeout = "write_timeout"
	envMaxInflight  = "max_inflight"

	// SecretsDir is where a container finds its secrets, one file each.
	SecretsDir = "/var/openfaas/secrets"
)

// Default fills what may be left out: the namespace, and whichever of
// metadata.name and spec.name is missing. Nothing that a client echoes (image,
// quantities, labels) is changed.
func Default(f *api.Function) {
	if f.Namespace == "" {
		f.Namespace = api.FunctionNamespace
	}
	if f.Spec.Name == "" {
		f.Spec.Name = f.Name
	}
	if f.Name == "" && f.GenerateName == "" {
		f.Name = f.Spec.Name
	}
}
