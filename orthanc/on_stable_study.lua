-- Tells the scheduler that a study is stable.
--
-- Orthanc's environment: HOOK_URL, where to tell; HOOK_TOKEN_FILE, the file with the token that allows it.
--
-- Orthanc's REST API stands still until the scheduler has answered, so nothing here asks Orthanc for anything, and the
-- wait is short (HttpTimeout in orthanc.json). Whatever goes wrong is one line in Orthanc's log and no error: the
-- scheduler also follows Orthanc's changes, and finds the study there. No value of a DICOM element leaves this file.

local TIMEOUT = 5 -- seconds

-- The token, or nil and why there is none. It is read each time: a new one needs no restart.
local function read_token()
  local path = os.getenv('HOOK_TOKEN_FILE')
  if not path or path == '' then
    return nil, 'HOOK_TOKEN_FILE is not set'
  end
  local file = io.open(path, 'r')
  if not file then
    return nil, 'the file that HOOK_TOKEN_FILE names cannot be read'
  end
  local line = file:read('*l')
  file:close()
  local token = line and line:match('^%s*([%w%-%._~%+/]+=*)%s*$') -- RFC 6750; anything else could add headers
  if not token then
    return nil, 'the file that HOOK_TOKEN_FILE names holds no token'
  end
  return token
end

-- True, or nil and why the scheduler does not know of the study.
local function tell(study_id)
  local url = os.getenv('HOOK_URL')
  if not url or url == '' then
    return nil, 'HOOK_URL is not set'
  end
  local token, why = read_token()
  if not token then
    return nil, why
  end
  if SetHttpTimeout then -- since Orthanc 1.11.1
    SetHttpTimeout(TIMEOUT)
  end
  local answer = HttpPost(url, '{"studyId": "' .. study_id .. '"}', {
    ['Authorization'] = 'Bearer ' .. token,
    ['Content-Type'] = 'application/json',
  })
  if answer == nil then
    return nil, 'the scheduler does not answer'
  end
  if not tostring(answer):find('"status"%s*:%s*"accepted"') then -- Orthanc gives '' for every HTTP error
    return nil, 'the scheduler did not accept it, its log says why'
  end
  return true
end

function OnStableStudy(studyId, tags, metadata)
  if type(studyId) ~= 'string' or not studyId:match('^[%x%-]+$') then
    print('dcm-processor: a study without a usable identifier is stable; the scheduler was not told')
    return
  end
  local worked, told, why = pcall(tell, studyId)
  if worked and told then
    print('dcm-processor: study ' .. studyId .. ' is stable, the scheduler knows')
  else
    print('dcm-processor: study ' .. studyId .. ' is stable, the scheduler was not told and will find it in the changes: '
      .. tostring(worked and why or told))
  end
end
