"""Which DICOM keywords `headers` shows where HEADER_FIELDS is not set, and which of them describe patient and study."""

DEFAULT_HEADER_FIELDS: tuple[str, ...] = (
    # -- Patient (PS3.3 C.7.1.1)
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "PatientIdentityRemoved",
    # -- General Study (PS3.3 C.7.2.1)
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    # -- Patient Study (PS3.3 C.7.2.2)
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    # -- General Series (PS3.3 C.7.3.1)
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "SeriesDate",
    "SeriesTime",
    "Modality",
    "BodyPartExamined",
    "Laterality",
    "PatientPosition",
    "ProtocolName",
    "PerformedProcedureStepDescription",
    "FrameOfReferenceUID",
    # -- General Equipment (PS3.3 C.7.5.1)
    "Manufacturer",
    "ManufacturerModelName",
    "StationName",
    "InstitutionName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    # -- the first instance: what it is and how it was acquired (PS3.3 C.7.4.2, C.7.6, C.8.2, C.8.3, C.8.9)
    "SOPClassUID",
    "SOPInstanceUID",
    "InstanceNumber",
    "ImageType",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionNumber",
    "ContentDate",
    "ContentTime",
    "ContrastBolusAgent",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "BurnedInAnnotation",
    "KVP",
    "ExposureTime",
    "XRayTubeCurrent",
    "ConvolutionKernel",
    "GantryDetectorTilt",
    "MagneticFieldStrength",
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "SequenceName",
    "PulseSequenceName",
    "RepetitionTime",
    "EchoTime",
    "EchoNumbers",
    "EchoTrainLength",
    "InversionTime",
    "FlipAngle",
    "DiffusionBValue",
    "NumberOfTemporalPositions",
    "ViewPosition",
    "Units",
)
"""The selection where `HEADER_FIELDS` is not set: what a callback usually decides on. docs/contract.md lists it."""

_PATIENT = """
    ReferencedPatientSequence PatientName PatientID IssuerOfPatientID TypeOfPatientID
    IssuerOfPatientIDQualifiersSequence SourcePatientGroupIdentificationSequence
    GroupOfPatientsIdentificationSequence PatientBirthDate PatientBirthTime
    PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar PatientAlternativeCalendar PatientSex
    QualityControlSubject StrainDescription StrainNomenclature StrainStockSequence StrainAdditionalInformation
    StrainCodeSequence GeneticModificationsSequence OtherPatientNames OtherPatientIDs OtherPatientIDsSequence
    ReferencedPatientPhotoSequence EthnicGroup EthnicGroups EthnicGroupCodeSequence PatientSpeciesDescription
    PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence BreedRegistrationSequence
    ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization PatientComments PatientIdentityRemoved
    DeidentificationMethod DeidentificationMethodCodeSequence
"""
_GENERAL_STUDY = """
    StudyInstanceUID StudyDate StudyTime StudyID StudyDescription AccessionNumber IssuerOfAccessionNumberSequence
    ReferringPhysicianName ReferringPhysicianIdentificationSequence ConsultingPhysicianName
    ConsultingPhysicianIdentificationSequence PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence
    NameOfPhysiciansReadingStudy PhysiciansReadingStudyIdentificationSequence RequestingService
    RequestingServiceCodeSequence ReferencedStudySequence ProcedureCodeSequence ReasonForPerformedProcedureCodeSequence
"""
_PATIENT_STUDY = """
    AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge PatientSize PatientSizeCodeSequence
    PatientBodyMassIndex MeasuredAPDimension MeasuredLateralDimension PatientWeight MedicalAlerts Allergies Occupation
    SmokingStatus AdditionalPatientHistory PregnancyStatus LastMenstrualDate PatientSexNeutered ReasonForVisit
    ReasonForVisitCodeSequence AdmissionID IssuerOfAdmissionID IssuerOfAdmissionIDSequence ServiceEpisodeID
    ServiceEpisodeDescription IssuerOfServiceEpisodeID IssuerOfServiceEpisodeIDSequence PatientState
    GenderIdentitySequence SexParametersForClinicalUseCategorySequence PersonNamesToUseSequence
    ThirdPersonPronounsSequence
"""

PATIENT_AND_STUDY_KEYWORDS: frozenset[str] = frozenset((_PATIENT + _GENERAL_STUDY + _PATIENT_STUDY).split())
"""The elements of the modules Patient, General Study and Patient Study (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2), with the
retired ones that old files still have: these stand at the top of `headers`, all others belong to a series."""
