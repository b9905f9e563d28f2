{{/* Locations of UFSs as the service takes them: URIs, options, credentials, names of buckets. */}}

{{- define "quickwater.checkUfs" -}}
{{- $ufs := .Values.ufs -}}
{{- if not $ufs.uri -}}
{{- fail "ufs.uri: say what the cache is in front of: s3://BUCKET/PREFIX, or file:///srv/ufs with ufs.persistentVolumeClaim" -}}
{{- end -}}
{{- $options := regexReplaceAll ",([a-z_]+=)" (default "" $ufs.options) "\n${1}" | splitList "\n" | compact -}}
{{- include "quickwater.checkLocation" (dict "root" . "what" "ufs.uri" "whose" "ufs.options" "uri" $ufs.uri "options" $options) -}}
{{- $all := $options -}}
{{- $names := list -}}
{{- $places := list -}}
{{- range .Values.mounts -}}
{{- $what := printf "mounts: %s" . -}}
{{- $name := regexFind "^[^=]*" . -}}
{{- include "quickwater.checkBucket" (dict "what" $what "name" $name) -}}
{{- if has $name $names -}}
{{- fail (printf "%s: the bucket %s is mounted twice: keep one" $what $name) -}}
{{- end -}}
{{- $names = append $names $name -}}
{{- $parts := regexReplaceAll ",([a-z_]+=)" (trimPrefix (printf "%s=" $name) .) "\n${1}" | splitList "\n" -}}
{{- $options := list -}}
{{- range rest $parts -}}
{{- if not (regexMatch "^metadata_ttl=([0-9]+(ms|s|m|min|h|d)|never)$" .) -}}
{{- $options = append $options . -}}
{{- end -}}
{{- end -}}
{{- include "quickwater.checkLocation" (dict "root" $ "what" $what "whose" $what "uri" (first $parts) "options" $options) -}}
{{- $endpoint := "" -}}
{{- range $options -}}
{{- if hasPrefix "endpoint=" . -}}
{{- $endpoint = lower (trimSuffix "/" .) -}}
{{- end -}}
{{- end -}}
{{- $place := printf "%s %s/" $endpoint (regexReplaceAll "/+$" (first $parts) "") -}}
{{- range $places -}}
{{- if or (hasPrefix . $place) (hasPrefix $place .) -}}
{{- fail (printf "%s: lies in the location of another mount, or holds it: two buckets for the same objects would not see each other's changes" $what) -}}
{{- end -}}
{{- end -}}
{{- $places = append $places $place -}}
{{- $all = concat $all $options -}}
{{- end -}}
{{- if and $ufs.credentialsSecret (not (regexMatch "(^|\n)credentials=file:/etc/quickwater/ufs/" (join "\n" $all))) -}}
{{- fail "ufs.credentialsSecret: nobody reads it: add credentials=file:/etc/quickwater/ufs/credentials to ufs.options or to a mount" -}}
{{- end -}}
{{- end -}}

{{/* A bucket's name: dict "what" "mounts: ..." "name" "photos" */}}
{{- define "quickwater.checkBucket" -}}
{{- $fits := regexMatch "^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$" .name -}}
{{- if or (not $fits) (contains ".." .name) (regexMatch "^[0-9]{1,3}([.][0-9]{1,3}){3}$" .name) -}}
{{- fail (printf "%s: %q is no name of a bucket: 3 to 63 of a-z, 0-9, '.' and '-', a letter or digit at both ends, no two dots in a row, no IP address" .what .name) -}}
{{- end -}}
{{- end -}}

{{/* dict "root" $ "what" "ufs.uri" "whose" "ufs.options" "uri" "s3://b/p" "options" (list "a=b") */}}
{{- define "quickwater.checkLocation" -}}
{{- $segments := regexReplaceAll "^[a-z0-9]+://" .uri "" | splitList "/" -}}
{{- if or (has "." $segments) (has ".." $segments) -}}
{{- fail (printf "%s: %s: write it without '.' and '..'" .what .uri) -}}
{{- end -}}
{{- if hasPrefix "file://" .uri -}}
{{- if .options -}}
{{- fail (printf "%s: a file:// location has no options: leave out %s" .whose (join "," .options)) -}}
{{- end -}}
{{- include "quickwater.checkDirectory" (dict "root" .root "what" .what "where" "ufs.persistentVolumeClaim (it is mounted at /srv/ufs)" "path" (trimPrefix "file://" .uri)) -}}
{{- else -}}
{{- if not (regexMatch "^s3://[^/@?, ]+(/|/[^/,][^,]*)?$" .uri) -}}
{{- fail (printf "%s: %s names no bucket, or its prefix begins with '/': write s3://BUCKET/PREFIX" .what .uri) -}}
{{- end -}}
{{- include "quickwater.checkOptions" . -}}
{{- end -}}
{{- end -}}

{{/* Options of an s3:// location. Values are not repeated: one may be a secret by mistake. */}}
{{- define "quickwater.checkOptions" -}}
{{- $seen := list -}}
{{- range .options -}}
{{- $name := regexFind "^[^=]*" . -}}
{{- $value := trimPrefix (printf "%s=" $name) . -}}
{{- if has $name $seen -}}
{{- fail (printf "%s: the option %s stands there twice" $.whose $name) -}}
{{- end -}}
{{- $seen = append $seen $name -}}
{{- if eq $name "endpoint" -}}
{{- if not (regexMatch "^https?://[^/@?# ][^@?# ]*$" $value) -}}
{{- fail (printf "%s: the option endpoint: write http(s)://HOST[:PORT], without credentials" $.whose) -}}
{{- end -}}
{{- else if eq $name "path_style" -}}
{{- if not (has $value (list "true" "false")) -}}
{{- fail (printf "%s: the option path_style: true or false" $.whose) -}}
{{- end -}}
{{- else if eq $name "min_part_size" -}}
{{- if not (regexMatch "^[0-9]+([KMG]iB)?$" $value) -}}
{{- fail (printf "%s: the option min_part_size: write for example 5MiB" $.whose) -}}
{{- end -}}
{{- else if eq $name "credentials" -}}
{{- include "quickwater.checkCredentials" (dict "root" $.root "whose" $.whose "reference" $value) -}}
{{- else if ne $name "region" -}}
{{- fail (printf "%s: an s3:// location has no option %q: it has credentials, endpoint, min_part_size, path_style, region" $.whose $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Where credentials are: dict "root" $ "whose" "ufs.options" "reference" "file:/etc/..." */}}
{{- define "quickwater.checkCredentials" -}}
{{- if hasPrefix "file:/" .reference -}}
{{- include "quickwater.checkDirectory" (dict "root" .root "what" (printf "%s: credentials" .whose) "where" "ufs.credentialsSecret (it is mounted at /etc/quickwater/ufs)" "path" (trimPrefix "file:" .reference)) -}}
{{- else if hasPrefix "env:" .reference -}}
{{- fail (printf "%s: credentials: containers are given no variables: name a Secret in ufs.credentialsSecret and write credentials=file:/etc/quickwater/ufs/credentials" .whose) -}}
{{- else if not (or (has .reference (list "default" "anonymous")) (regexMatch "^profile:." .reference)) -}}
{{- fail (printf "%s: credentials: write a reference: file:/PATH, profile:NAME, default or anonymous" .whose) -}}
{{- end -}}
{{- end -}}

{{/* A path must be on a volume: the root file systems of the containers cannot be written, and
hold nothing of yours. dict "root" $ "what" "ufs.uri" "where" "ufs.persistentVolumeClaim" "path" "/srv/ufs" */}}
{{- define "quickwater.checkDirectory" -}}
{{- $path := clean .path -}}
{{- $places := list -}}
{{- if .root.Values.ufs.persistentVolumeClaim -}}
{{- $places = append $places "/srv/ufs" -}}
{{- end -}}
{{- if .root.Values.ufs.credentialsSecret -}}
{{- $places = append $places "/etc/quickwater/ufs" -}}
{{- end -}}
{{- range .root.Values.extraVolumeMounts -}}
{{- $places = append $places (clean .mountPath) -}}
{{- end -}}
{{- $found := false -}}
{{- range $places -}}
{{- if or (eq $path .) (hasPrefix (printf "%s/" .) $path) -}}
{{- $found = true -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail (printf "%s: no volume is mounted at %s: name it in %s, or a volume in extraVolumes and extraVolumeMounts" .what $path .where) -}}
{{- end -}}
{{- end -}}
