package apiserver

import (
	"testing"
)

func TestKubectlExplain(t *testing.T) {
	k := newKube(t)
	k.shows("", args("explain pod.spec.containers"), "FIELD: containers <[]Container>", "List of containers belonging to the pod", "image\t<string>", "-required-", "imagePullPolicy", "enum: Always, IfNotPresent, Never")
	k.shows("", args("explain deployment --recursive"), "GROUP:      apps", "KIND:       Deployment", "terminationMessagePath\t<string>", "maxSurge\t<IntOrString>", "-required-")
	k.shows("", args("explain function.spec"), "openfaas.com", "readOnlyRootFilesystem\t<boolean>", "image\t<string>")
	k.shows("", args("explain networkpolicy.spec.ingress.ports.port"), "IntOrString")
	k.shows("", args("explain pod.spec.containers.resources.limits"), "map[string]Quantity")
	k.shows("", args("explain pods --output=plaintext-openapiv2"), "KIND:     Pod", "spec\t<Object>")
	k.run("", `field "nonsense" does not exist`, args("explain pod.spec.nonsense")...)
}
