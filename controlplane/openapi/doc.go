// Package openapi describes the kinds of the API: as OpenAPI documents of
// version 2 and 3, for clients, and as the schemas by which server-side apply
// merges. All of it comes from the Go types, when it is first asked for: their
// fields by reflection, descriptions from their SwaggerDoc, and what only
// comments of their sources say from facts.txt, which a test holds to them.
package openapi
