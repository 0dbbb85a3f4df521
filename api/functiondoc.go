package api

// SwaggerDoc says what `kubectl explain` shows of a Function; as in k8s.io/api
// the keys are JSON names and "" is the type.
func (Function) SwaggerDoc() map[string]string {
	return map[string]string{
		"":         "Function is a program that is called through the gateway. A Deployment and a Service of its name are kept for it; how many replicas there are follows the calls.",
		"metadata": "Standard object's metadata.",
		"spec":     "What is to run.",
		"status":   "What was observed. Read-only.",
	}
}

// SwaggerDoc is like Function's.
func (FunctionSpec) SwaggerDoc() map[string]string {
	return map[string]string{
		"":                       "FunctionSpec is what is to run.",
		"name":                   "Name of the function; equals metadata.name.",
		"image":                  "Image of the function's container.",
		"handler":                "Folder that the function was built from; for information only.",
		"process":                "Command that the watchdog runs; fprocess in the container's environment.",
		"annotations":            "Annotations of the function's replicas, and settings such as topic or schedule.",
		"labels":                 "Labels of the function's replicas, and settings of its scaling (com.openfaas.scale.*).",
		"environment":            "Environment variables of the container.",
		"constraints":            `Nodes that replicas may be on: each is "key=value", "key==value" or "key!=value" of a node's label.`,
		"secrets":                "Names of Secrets of the same namespace; each is a file in /var/openfaas/secrets.",
		"limits":                 "Most that a replica may use.",
		"requests":               "What a replica is sure to get.",
		"readOnlyRootFilesystem": "The container's root file system cannot be written to; /tmp can.",
	}
}

// SwaggerDoc is like Function's.
func (FunctionResources) SwaggerDoc() map[string]string {
	return map[string]string{
		"":       "FunctionResources are quantities of memory and processor time.",
		"memory": "Memory in bytes, such as 128Mi.",
		"cpu":    "Processor time in cores, such as 100m.",
	}
}

// SwaggerDoc is like Function's.
func (FunctionStatus) SwaggerDoc() map[string]string {
	return map[string]string{
		"":                    "FunctionStatus is what was observed.",
		"replicas":            "Replicas that there are.",
		"availableReplicas":   "Replicas that calls are given to.",
		"unavailableReplicas": "Replicas that are not available yet.",
		"observedGeneration":  "Generation of the function that was acted on last.",
		"conditions":          "Ready, Healthy, Reconciling and Stalled.",
		"restarts":            "Restarts of the containers of the replicas there are.",
		"lastTermination":     "How the container of a replica has ended last.",
	}
}
