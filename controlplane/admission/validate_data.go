package admission

import (
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// needs lists the keys that Secrets of a type must have.
func needs(t corev1.SecretType) []string {
	switch t {
	case corev1.SecretTypeDockercfg:
		return []string{corev1.DockerConfigKey}
	case corev1.SecretTypeDockerConfigJson:
		return []string{corev1.DockerConfigJsonKey}
	case corev1.SecretTypeSSHAuth:
		return []string{corev1.SSHAuthPrivateKey}
	case corev1.SecretTypeTLS:
		return []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey}
	default:
		return nil
	}
}

func validateSecret(s *corev1.Secret) field.ErrorList {
	data := field.NewPath("data")
	size := 0
	var errs field.ErrorList
	for k, v := range s.Data {
		errs = append(errs, invalid(data.Key(k), k, validation.IsConfigMapKey(k))...)
		size += len(v)
	}
	errs = append(errs, tooBig(size, data)...)
	if s.Type == corev1.SecretTypeServiceAccountToken && s.Annotations[corev1.ServiceAccountNameKey] == "" {
		at := field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey)
		errs = append(errs, field.Required(at, "a secret of type "+string(s.Type)+" names its service account"))
	}
	for _, k := range needs(s.Type) {
		v, ok := s.Data[k]
		if !ok {
			errs = append(errs, field.Required(data.Key(k), "a secret of type "+string(s.Type)+" has it"))
		} else if (k == corev1.DockerConfigJsonKey || k == corev1.DockerConfigKey) && !json.Valid(v) {
			errs = append(errs, field.Invalid(data.Key(k), "<secret contents redacted>", "must be JSON"))
		}
	}
	return errs
}

func validateSecretUpdate(s, old *corev1.Secret) field.ErrorList {
	errs := immutable(s.Type, old.Type, field.NewPath("type"))
	if old.Immutable != nil && *old.Immutable {
		errs = append(errs, frozen(changed(*s, *old))...)
	}
	return errs
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	data, binary := field.NewPath("data"), field.NewPath("binaryData")
	size := 0
	var errs field.ErrorList
	for k, v := range c.Data {
		errs = append(errs, invalid(data.Key(k), k, validation.IsConfigMapKey(k))...)
		if _, twice := c.BinaryData[k]; twice {
			errs = append(errs, field.Invalid(data.Key(k), k, "must not be in binaryData too"))
		}
		size += len(v)
	}
	for k, v := range c.BinaryData {
		errs = append(errs, invalid(binary.Key(k), k, validation.IsConfigMapKey(k))...)
		size += len(v)
	}
	return append(errs, tooBig(size, data)...)
}

func validateConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	if old.Immutable != nil && *old.Immutable {
		return frozen(changed(*c, *old))
	}
	return nil
}

// frozen refuses changes of what was declared immutable; metadata stays free.
func frozen(fields []string) field.ErrorList {
	var errs field.ErrorList
	for _, f := range fields {
		if f == "data" || f == "binaryData" || f == "immutable" {
			errs = append(errs, field.Forbidden(field.NewPath(f), "field is immutable when `immutable` is set"))
		}
	}
	return errs
}

func tooBig(size int, p *field.Path) field.ErrorList {
	if size <= maxData {
		return nil
	}
	e := field.TooLong(p, "", maxData)
	e.Detail = fmt.Sprintf("has %d bytes, may have at most %d bytes", size, maxData)
	return field.ErrorList{e}
}
